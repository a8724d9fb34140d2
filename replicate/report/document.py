"""Everything that a table says, as plain data: `table.json`, and all that the renderers see."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from replicate.report.cell import Cell
from replicate.report.claims import Effect, Judgement
from replicate.report.provenance import provenance
from replicate.report.statistics import LEVEL, mean_interval
from replicate.report.summary import summary
from replicate.report.table import Entry, Table
from replicate.report.text import cell_name, count, display_name, interval_text, published_number, signed

SCHEMA = 1
COUNTS = ("expected", "finished", "converged", "not_converged", "diverged", "errors", "missing")
Document = dict[str, Any]


def document(table: Table) -> Document:
    """Lay out a table as plain data. A number that is unknown or not finite is None, in JSON null.

    Returns:
        A mapping with these keys; accuracies are test accuracies in %, differences percentage points.

        - `schema`: 1. `experiment`: its name. `axes`: the two fields of a run that make the rows and the columns.
        - `rows`, `columns`: lists of `{value, title}`, in the table's order.
        - `protocol`: `data_label`, `dataset`, `fingerprint`, `classes`, `seeds`; `settings`, those of most cells; and
          `shown`, the same as text.
        - `level`: of every interval. `pooled`: `{sd, df}` over all converged cells, or None.
        - `reference`: whether published numbers are shown. `footnotes`: those of all cells.
        - `summary`: see `replicate.report.summary`.
        - `cells`: one mapping per place, row by row: `row`, `column`, `name`; the counts `expected`, `finished`,
          `converged`, `not_converged`, `diverged`, `errors`, `missing`, all 0 where there are no runs; `nc`; `mean`,
          `sd` of one run, `interval` of the mean as `[low, high]`; `seeds` and `accuracies` of the converged runs;
          `settings` of its runs, None where there are none; `run_ids` of its records; `published` (a number, `n/c` or
          None); `verdict`: `{word, reason, difference, half_width}`; `notes`; and `shown`, the same as text: `number`,
          `counts`, `progress`, `published`, `verdict`.
        - `claims`: a list of `{id, text, kind, verdict, reason, effect, shown}`; `effect` is None or `{label, value,
          unit, interval}`, `shown` is `{effect, interval}`.
        - `runs`: the records, `result.json`, in the order of the experiment.
        - `missing`: run_ids without a readable record. `unreadable`: list of `{file, reason}`. `others`: number of
          records in the folder that are not of this table.
        - `provenance`: see `replicate.report.provenance`.
    """
    protocol = table.protocol
    run_ids: dict[tuple[Any, ...], list[str]] = {}
    for result in table.results:
        run_ids.setdefault(tuple(getattr(result.run, axis) for axis in table.axes), []).append(result.run.run_id)
    found = {
        "schema": SCHEMA,
        "experiment": table.name,
        "axes": table.axes,
        "rows": [{"value": value, "title": display_name(value)} for value in table.rows],
        "columns": [{"value": value, "title": display_name(value)} for value in table.columns],
        "protocol": {**asdict(protocol), "shown": protocol.texts()},
        "level": LEVEL,
        "pooled": asdict(table.pooled) if table.pooled else None,
        "reference": table.reference,
        "footnotes": list(dict.fromkeys(note for entry in table.entries.values() for note in entry.notes)),
        "summary": summary(table),
        "cells": [_place(*place, entry, run_ids.get(place, [])) for place, entry in table.entries.items()],
        "claims": [_claim(judgement) for judgement in table.judgements],
        "runs": [{"run_id": result.run.run_id, **asdict(result)} for result in table.results],
        "missing": table.missing,
        "unreadable": unreadable(table.bad),
        "others": table.others,
        "provenance": provenance(table.results),
    }
    plain: Document = _plain(found)
    return plain


def strict_json(value: object, indent: int | None = 1) -> str:
    """JSON that every reader takes: null for numbers that are not finite; all on one line if `indent` is None."""
    return json.dumps(_plain(value), allow_nan=False, indent=indent) + "\n"


def unreadable(bad: Mapping[Any, str]) -> list[dict[str, str]]:
    """Files that could not be read, without the folders that lead to them, and why."""
    return [{"file": f"{path.parent.name}/{path.name}", "reason": reason} for path, reason in bad.items()]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _place(row: object, column: object, entry: Entry, run_ids: list[str]) -> Document:
    cell, verdict = entry.cell, entry.verdict
    settings = {name: value for name, value in asdict(cell.run).items() if name != "seed"} if cell else None
    return {
        "row": row,
        "column": column,
        "name": cell_name(row, column),
        **{name: getattr(cell, name) if cell else 0 for name in COUNTS},
        **{name: getattr(cell, name) if cell else None for name in ("nc", "mean", "sd")},
        "interval": mean_interval(cell) if cell else None,
        "seeds": cell.seeds if cell else (),
        "accuracies": cell.accuracies if cell else (),
        "settings": settings,
        "run_ids": run_ids,
        "published": entry.published,
        "verdict": asdict(verdict),
        "notes": entry.notes,
        "shown": {
            **cell_texts(cell),
            "published": published_number(entry.published),
            "verdict": verdict.reason if verdict.word == "not judged" else verdict.word,
        },
    }


def cell_texts(cell: Cell | None) -> dict[str, str]:
    """A cell as text: `number` (`93.9 ± 0.2`, `n/c`, `… 0/5`, `–`), `counts` (`n=4, 1 n/c`), `progress` (`… 4/5`)."""
    if cell is None:
        return {"number": "–", "counts": "", "progress": ""}
    errors = count(cell.errors, "error") if cell.errors else ""
    progress = f"… {cell.finished}/{cell.expected}" if cell.finished < cell.expected else ""
    if cell.finished == 0:
        return {"number": progress, "counts": errors, "progress": ""}
    if cell.nc:
        number, counts = "n/c", [f"{cell.failed}/{cell.finished}", errors]
    else:
        number = f"{cell.mean:.1f}" + ("" if cell.sd is None else f" ± {cell.sd:.1f}")
        counts = [f"n={cell.converged}", f"{cell.failed} n/c" if cell.failed else "", errors]
    return {"number": number, "counts": ", ".join(filter(None, counts)), "progress": progress}


def _claim(judgement: Judgement) -> Document:
    claim, effect = judgement.claim, judgement.effect
    return {
        "id": claim.id,
        "text": claim.text,
        "kind": claim.kind,
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "effect": asdict(effect) if effect else None,
        "shown": _effect_texts(effect) if effect else {"effect": "", "interval": ""},
    }


def _effect_texts(effect: Effect) -> dict[str, str]:
    share = effect.unit == "%"
    value = f"{effect.value:.1f}" if share else signed(effect.value)
    return {
        "effect": f"{value} {effect.unit}: {effect.label}",
        "interval": interval_text(effect.interval, with_sign=not share),
    }

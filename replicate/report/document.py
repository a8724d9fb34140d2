"""Everything that a table says, as one JSON document for other programs."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate.report.axes import title
from replicate.report.claims import Judgement
from replicate.report.origins import origins
from replicate.report.statistics import LEVEL

if TYPE_CHECKING:
    from replicate.report.table import Entry, Table

SCHEMA = 1


def document(table: "Table") -> dict[str, Any]:
    """Lay out a table as plain data, `table.json`. A number that is not known, or not finite, is null.

    Returns:
        A mapping with these keys; accuracies are test accuracies in %, differences percentage points.

        - `schema`: 1. `experiment`: its name. `axes`: the two fields of a run that make the rows and the columns.
        - `rows`, `columns`: lists of `{value, title}`, in the table's order.
        - `protocol`: `data_label`, `dataset`, `fingerprint`, `classes`, `seeds`, and `settings`, those of most cells.
        - `level`: of every interval. `pooled`: `{sd, df}` over all converged cells, or null.
        - `cells`: a list, a cell each: `row`, `column`, the counts `expected`, `finished`, `converged`,
          `not_converged`, `diverged`, `errors`, `missing`; `nc`; `mean`, `sd` of one run, `interval` of the mean as
          `[low, high]`; `seeds` and `accuracies` of the converged runs; `settings` of its runs; `published` (a number,
          `n/c` or null); `verdict`: `{word, reason, difference, half_width}`; `notes`. Places without runs have only
          `row`, `column`, `published` and an `expected` of 0.
        - `claims`: a list of `{id, text, kind, verdict, reason, effect}`; `effect` is null or `{label, value, unit,
          interval}`.
        - `runs`: the records, `result.json`, in the order of the experiment.
        - `missing`: run_ids without a readable record. `unreadable`: list of `{file, reason}`. `others`: number of
          records in the folder that are not of this table.
        - `provenance`: `data`, `code`, `devices` (each with its number of `runs`; devices with `kind` and `hours`),
          `versions` (library -> version -> runs), `first_finished`, `last_finished`.
    """
    return {
        "schema": SCHEMA,
        "experiment": table.name,
        "axes": list(table.axes),
        "rows": [{"value": value, "title": title(value)} for value in table.rows],
        "columns": [{"value": value, "title": title(value)} for value in table.columns],
        "protocol": {**asdict(table.protocol), "settings": dict(table.protocol.settings)},
        "level": LEVEL,
        "pooled": asdict(table.pooled) if table.pooled else None,
        "cells": [_cell(table, *place, entry) for place, entry in table.entries.items()],
        "claims": [_claim(judgement) for judgement in table.judgements],
        "runs": [{"run_id": result.run.run_id, **asdict(result)} for result in table.results],
        "missing": list(table.missing),
        "unreadable": [{"file": name, "reason": reason} for name, reason in unreadable(table.bad)],
        "others": table.others,
        "provenance": _provenance(table),
    }


def strict_json(value: object, indent: int | None = 1) -> str:
    """JSON that every reader takes: null for numbers that are not finite; with `indent` None all in one line."""
    return json.dumps(_finite(value), allow_nan=False, indent=indent) + "\n"


def unreadable(bad: Mapping[Path, str]) -> list[tuple[str, str]]:
    """Files that could not be read, without the folders that lead to them, and why."""
    return [(f"{path.parent.name}/{path.name}", reason.removeprefix(f"{path}: ")) for path, reason in bad.items()]


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return value


def _cell(table: "Table", row: object, column: object, entry: "Entry") -> dict[str, Any]:
    place = {"row": row, "column": column, "published": entry.published}
    if (cell := entry.cell) is None:
        return {**place, "expected": 0}
    counts = ("expected", "finished", "converged", "not_converged", "diverged", "errors", "missing")
    return {
        **place,
        **{name: getattr(cell, name) for name in (*counts, "nc", "mean", "sd", "seeds", "accuracies")},
        "interval": [cell.interval.low, cell.interval.high] if cell.interval else None,
        "settings": {name: value for name, value in asdict(cell.run).items() if name != "seed"},
        "verdict": asdict(entry.verdict),
        "notes": [table.footnotes[index] for index in entry.notes],
    }


def _claim(judgement: Judgement) -> dict[str, Any]:
    claim, effect = judgement.claim, judgement.effect
    size = None
    if effect:
        interval = [effect.interval.low, effect.interval.high] if effect.interval else None
        size = {"label": effect.label, "value": effect.value, "unit": effect.unit, "interval": interval}
    said = {"verdict": judgement.verdict, "reason": judgement.reason, "effect": size}
    return {"id": claim.id, "text": claim.text, "kind": claim.kind, **said}


def _provenance(table: "Table") -> dict[str, Any]:
    found = origins(table.results)
    return {
        "data": [{"label": label, "fingerprint": mark, "runs": n} for (label, mark), n in found.data.items()],
        "code": [{"commit": commit, "dirty": dirty, "runs": n} for (commit, dirty), n in found.code.items()],
        "versions": {library: dict(versions) for library, versions in found.versions.items()},
        "devices": [asdict(device) for device in found.devices],
        "first_finished": found.first or None,
        "last_finished": found.last or None,
    }

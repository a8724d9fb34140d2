"""Everything that a table says, as plain data: `table.json`. Renderers, figures and the page see only this."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

from replicate.experiment import Experiment
from replicate.report.cell import Cell, axis_values, cells, left_out
from replicate.report.claims import Claim, Judgement, judge, load_claims
from replicate.report.power import Power, Truth, power, truths
from replicate.report.published import Published, read_reference, recipe_note, verdict, why_not_comparable
from replicate.report.statistics import LEVEL, Spreads, mean_interval
from replicate.report.summary import departures, provenance, shared_protocol, spreads_text, summary
from replicate.report.text import cell_name, count, display_name, interval_text, published_number, signed
from replicate.run import Run
from replicate.store.run_folder import Records

COUNTS = ("expected", "finished", "converged", "not_converged", "diverged", "errors", "missing")
Document = dict[str, Any]
Key = tuple[Any, Any]  # row value, column value


def document(experiment: Experiment, runs: tuple[Run, ...], records: Records) -> Document:
    """Lay out the table of an experiment as plain data. A number that is unknown or not finite is None, in JSON null.

    Args:
        experiment: names the axes, the published numbers and the claims.
        runs: the runs of the table, all of the experiment's or some of them.
        records: the records of these runs; there may be none. If there are others, their runs are in the table too.

    Returns:
        A mapping with these keys; accuracies are test accuracies in %, differences percentage points.

        - `schema`: 1. `experiment`: its name. `axes`: the two fields of a run that make the rows and the columns.
        - `rows`, `columns`: lists of `{value, title}`, in the table's order.
        - `protocol`: see `shared_protocol`.
        - `level`: of every interval. `pooled`: `{sd, df}` over all converged cells, or None. `spreads`: whether the
          cells scatter `alike`, the `p` value (see `Spreads`), and `shown`, a sentence.
        - `reference`: whether published numbers are shown. `footnotes`: those of all cells.
        - `summary`, `provenance`: see the functions of these names.
        - `cells`: one mapping per row and column, row by row: `row`, `column`, `name`; the counts `expected`,
          `finished`, `converged`, `not_converged`, `diverged`, `errors`, `missing`, all 0 where there are no runs;
          `nc`; `mean`, `sd` of one run, `interval` of the mean as `[low, high]`; `seeds` and `accuracies` of the
          converged runs; `settings` of its runs, None where there are none; `run_ids` of its records; `published` (a
          number, `n/c` or None); `verdict`: `{word, reason, difference, half_width}`; `notes`; and `shown`, the same as
          text: `number`, `counts`, `progress`, `published`, `verdict`.
        - `claims`: a list of `{id, text, kind, verdict, reason, effect, not_significant, power, shown}`; `effect` is
          None or `{label, value, unit, interval}`; `power` is that of an undecided claim with this many runs, in %;
          `shown` is `{effect, interval, power}`.
        - `runs`: the records, `result.json`, in the order of the experiment.
        - `missing`: run_ids without a readable record. `unreadable`: list of `{file, reason}`. `others`: number of
          records in the folder that are not of this table. `more_runs`: number of its runs with `more_seeds`.

    Raises:
        UsageError: the records were made on different data sets, a cell mixes settings, or a file of published numbers
            or claims is wrong.
    """
    spec, results = experiment.table, records.results
    asked, runs = len(runs), records.with_their_runs(runs)
    axes = (spec.rows, spec.columns)
    protocol = shared_protocol(runs, results.values(), axes)
    grid = {(cell.row, cell.column): cell for cell in cells(runs, results, *axes)}
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    published = read_reference(spec.reference, *axes) if spec.reference else {}
    spreads = Spreads.of(grid.values())
    usual = protocol["settings"]
    laid_out = [_cell(key, grid.get(key), published.get(key), usual, spreads) for key in product(rows, columns)]
    assumed = [] if protocol["warning"] else truths(grid.values(), published, spreads)
    claims = _claims(experiment, grid, assumed)
    found = {
        "schema": 1,
        "experiment": experiment.name,
        "axes": axes,
        "rows": [{"value": row, "title": display_name(row)} for row in rows],
        "columns": [{"value": column, "title": display_name(column)} for column in columns],
        "protocol": protocol,
        "level": LEVEL,
        "pooled": spreads.pooled._asdict() if spreads.pooled else None,
        "spreads": {"p": spreads.p, "alike": spreads.alike, "shown": spreads_text(spreads)},
        "reference": bool(spec.reference),
        "footnotes": list(dict.fromkeys(note for cell in laid_out for note in cell["notes"])),
        "summary": summary(laid_out, claims, results.values()),
        "cells": laid_out,
        "claims": claims,
        "runs": [{"run_id": run_id, **asdict(result)} for run_id, result in results.items()],
        "missing": [run.run_id for run in runs if run.run_id not in results],
        "unreadable": unreadable(records.bad),
        "others": records.others,
        "more_runs": len(runs) - asked,
        "provenance": provenance(results.values()),
    }
    plain: Document = to_jsonable_python(found, inf_nan_mode="null")
    return plain


def _notes(cell: Cell, published: Published | None, usual: Mapping[str, Any]) -> list[str]:
    departing = departures(cell.run, usual)
    notes = [f"Trained with {departing}, unlike the other cells."] if departing else []
    # if the rest of the protocol does not compare, the recipe makes no difference
    if published is not None and not why_not_comparable(cell.run) and (note := recipe_note(cell.run)):
        notes.append(note)
    return notes


def _cell(
    key: Key, cell: Cell | None, published: Published | None, usual: Mapping[str, Any], spreads: Spreads
) -> Document:
    """Lay out one cell; `usual` are the settings of most cells."""
    row, column = key
    judged = verdict(cell, published, spreads.judging(cell) if cell else None)
    return {
        "row": row,
        "column": column,
        "name": cell_name(row, column),
        **{name: getattr(cell, name, 0) for name in COUNTS},
        **{name: getattr(cell, name, None) for name in ("nc", "mean", "sd")},
        "interval": mean_interval(cell) if cell else None,
        **{name: getattr(cell, name, ()) for name in ("seeds", "accuracies")},
        "settings": {name: value for name, value in asdict(cell.run).items() if name != "seed"} if cell else None,
        "run_ids": cell.run_ids if cell else (),
        "published": published,
        "verdict": judged,
        "notes": _notes(cell, published, usual) if cell else [],
        "shown": {
            **cell_texts(cell),
            "published": published_number(published),
            "verdict": judged.reason if judged.word == "not judged" else judged.word,
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


def number_and_counts(cell: Document) -> str:
    """One of the document's cells as text, without its progress: `93.9 ± 0.2 (n=4, 1 n/c)`."""
    number, counts = cell["shown"]["number"], cell["shown"]["counts"]
    return f"{number} ({counts})" if counts else number


def _claims(experiment: Experiment, grid: Mapping[Key, Cell], assumed: list[Truth]) -> list[Document]:
    spec = experiment.table
    if spec.claims is None:
        return []
    missing = left_out(experiment, grid.values())
    judged = [(claim, judge(claim, tuple(grid.values()), missing)) for claim in load_claims(spec.claims)]
    return [
        _claim(claim, one, power(claim, assumed, missing) if one.verdict == "undecided" else None)
        for claim, one in judged
    ]


def _claim(claim: Claim, judgement: Judgement, chance: Power | None) -> Document:
    effect, decided = judgement.effect, chance.decided if chance else None
    shown = {"effect": "", "interval": "", "power": "" if decided is None else f"{decided:.0f} %"}
    if effect:
        share = effect.unit == "%"
        value = f"{effect.value:.1f}" if share else signed(effect.value)
        shown["effect"] = f"{value} {effect.unit}: {effect.label}"
        shown["interval"] = interval_text(effect.interval, with_sign=not share)
    return {
        "id": claim.id,
        "text": claim.text,
        "kind": claim.kind,
        **judgement._asdict(),
        "power": decided,
        "shown": shown,
    }


def strict_json(doc: Document, indent: int | None = 1) -> str:
    """A document as JSON that every reader accepts; on one line if `indent` is None."""
    return json.dumps(doc, allow_nan=False, indent=indent) + "\n"


def unreadable(bad: Mapping[Path, str]) -> list[dict[str, str]]:
    """List files that could not be read, each with the name of its folder only, and the reason."""
    return [{"file": f"{path.parent.name}/{path.name}", "reason": reason} for path, reason in bad.items()]


def places(doc: Document) -> dict[str, tuple[int, int]]:
    """Where the runs of a document are in its table: run_id -> index of the row, index of the column."""
    columns = len(doc["columns"])
    return {run_id: divmod(index, columns) for index, cell in enumerate(doc["cells"]) for run_id in cell["run_ids"]}


def comparable_number(cell: Document) -> float | None:
    """The published accuracy of one of the document's cells; None unless we have runs that compare with it."""
    comparable = cell["expected"] and cell["verdict"]["word"] != "not comparable"
    return cell["published"] if comparable and isinstance(cell["published"], float) else None

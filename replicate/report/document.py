"""Everything that a table says, as plain data: `table.json`, and all that the renderers see."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic_core import to_jsonable_python

from replicate.report.cell import Cell
from replicate.report.claims import Judgement
from replicate.report.published import JUDGED, MIN_RUNS, expected_outside
from replicate.report.statistics import LEVEL, mean_interval
from replicate.report.table import Entry, Table
from replicate.report.text import cell_name, count, display_name, interval_text, published_number, signed
from replicate.store.result import Result

SCHEMA = 1
COUNTS = ("expected", "finished", "converged", "not_converged", "diverged", "errors", "missing")
VERDICTS = (*JUDGED, "not judged", "not comparable", "supported", "contradicted", "undecided")  # in this order
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
        - `summary`, `provenance`: see the functions of these names.
        - `cells`: one mapping per row and column, row by row: `row`, `column`, `name`; the counts `expected`,
          `finished`, `converged`, `not_converged`, `diverged`, `errors`, `missing`, all 0 where there are no runs;
          `nc`; `mean`, `sd` of one run, `interval` of the mean as `[low, high]`; `seeds` and `accuracies` of the
          converged runs; `settings` of its runs, None where there are none; `run_ids` of its records; `published` (a
          number, `n/c` or None); `verdict`: `{word, reason, difference, half_width}`; `notes`; and `shown`, the same as
          text: `number`, `counts`, `progress`, `published`, `verdict`.
        - `claims`: a list of `{id, text, kind, verdict, reason, effect, shown}`; `effect` is None or `{label, value,
          unit, interval}`, `shown` is `{effect, interval}`.
        - `runs`: the records, `result.json`, in the order of the experiment.
        - `missing`: run_ids without a readable record. `unreadable`: list of `{file, reason}`. `others`: number of
          records in the folder that are not of this table.
    """
    run_ids: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for result in table.results:
        run_ids[tuple(getattr(result.run, axis) for axis in table.axes)].append(result.run.run_id)
    axes = {"rows": table.rows, "columns": table.columns}
    found = {
        "schema": SCHEMA,
        "experiment": table.name,
        "axes": table.axes,
        **{name: [{"value": one, "title": display_name(one)} for one in values] for name, values in axes.items()},
        "protocol": {**asdict(table.protocol), "shown": table.protocol.texts()},
        "level": LEVEL,
        "pooled": table.pooled,
        "reference": table.reference,
        "footnotes": list(dict.fromkeys(note for entry in table.entries.values() for note in entry.notes)),
        "summary": summary(table),
        "cells": [_cell(*key, entry, run_ids[key]) for key, entry in table.entries.items()],
        "claims": [_claim(judgement) for judgement in table.judgements],
        "runs": [{"run_id": result.run.run_id, **asdict(result)} for result in table.results],
        "missing": table.missing,
        "unreadable": unreadable(table.bad),
        "others": table.others,
        "provenance": provenance(table.results),
    }
    plain: Document = to_jsonable_python(found, inf_nan_mode="null")
    return plain


def strict_json(doc: Document, indent: int | None = 1) -> str:
    """A document as JSON that every reader accepts; on one line if `indent` is None."""
    return json.dumps(doc, allow_nan=False, indent=indent) + "\n"


def unreadable(bad: Mapping[Any, str]) -> list[dict[str, str]]:
    """List files that could not be read, each with the name of its folder only, and the reason."""
    return [{"file": f"{path.parent.name}/{path.name}", "reason": reason} for path, reason in bad.items()]


def _cell(row: object, column: object, entry: Entry, run_ids: list[str]) -> Document:
    cell, verdict = entry.cell, entry.verdict
    return {
        "row": row,
        "column": column,
        "name": cell_name(row, column),
        **{name: getattr(cell, name, 0) for name in COUNTS},
        **{name: getattr(cell, name, None) for name in ("nc", "mean", "sd")},
        "interval": mean_interval(cell) if cell else None,
        **{name: getattr(cell, name, ()) for name in ("seeds", "accuracies")},
        "settings": {name: value for name, value in asdict(cell.run).items() if name != "seed"} if cell else None,
        "run_ids": run_ids,
        "published": entry.published,
        "verdict": verdict,
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


def comparable_number(cell: Document) -> float | None:
    """The published accuracy of one of the document's cells; None unless we have runs that compare with it."""
    comparable = cell["expected"] and cell["verdict"]["word"] != "not comparable"
    return cell["published"] if comparable and isinstance(cell["published"], float) else None


def _claim(judgement: Judgement) -> Document:
    claim, effect = judgement.claim, judgement.effect
    shown = {"effect": "", "interval": ""}
    if effect:
        share = effect.unit == "%"
        value = f"{effect.value:.1f}" if share else signed(effect.value)
        shown["effect"] = f"{value} {effect.unit}: {effect.label}"
        shown["interval"] = interval_text(effect.interval, with_sign=not share)
    found = {"id": claim.id, "text": claim.text, "kind": claim.kind, "verdict": judgement.verdict}
    return {**found, "reason": judgement.reason, "effect": effect, "shown": shown}


def summary(table: Table) -> Document:
    """Sum up a table.

    Returns:
        - `expected`, `finished`, `converged`, `diverged`, `errors`: numbers of runs.
        - `published`, `claims`: verdict -> number of published numbers, and of claims, that got it.
        - `expected_outside`: how many published numbers are expected outside their interval by chance; None if none is
          judged.
        - `not_comparable`: why cells do not compare with the published numbers, one sentence per reason.
        - `caveats`: sentences on what limits the rest.
    """
    judged = [(entry.cell.name, entry.verdict) for entry in table.entries.values() if entry.cell and entry.verdict.word]
    verdicts = [verdict for _, verdict in judged]
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    for name, verdict in judged:
        if verdict.word == "not comparable":
            names_by_reason[verdict.reason].append(name)
    not_comparable = []
    for reason, names in names_by_reason.items():
        which = "" if len(names) == len(judged) else f" ({', '.join(names)})"
        not_comparable.append(f"Not comparable with the paper{which}: {reason}.")
    counts = ("expected", "finished", "converged", "diverged", "errors")
    totals = {name: sum(getattr(cell, name) for cell in table.cells) for name in counts}
    return {
        **totals,
        "published": _counted(verdict.word for verdict in verdicts) if table.reference else {},
        "claims": _counted(judgement.verdict for judgement in table.judgements),
        "expected_outside": expected_outside(verdicts) if any(v.word in JUDGED for v in verdicts) else None,
        "not_comparable": not_comparable,
        "caveats": _caveats(table, totals, not_comparable),
    }


def _counted(words: Iterable[str]) -> dict[str, int]:
    counts = Counter(words)
    return {word: counts[word] for word in VERDICTS if counts[word]}


def _caveats(table: Table, totals: Mapping[str, int], not_comparable: list[str]) -> list[str]:
    caveats = []
    finished, expected, errors = totals["finished"], totals["expected"], totals["errors"]
    if not finished:
        caveats.append("No run has finished yet.")
    elif finished < expected:
        caveats.append(f"{expected - finished} of {expected} runs have not finished, so the numbers may still change.")
    most = max((cell.n for cell in table.cells), default=0)
    if 0 < most < MIN_RUNS:
        few = f"No cell has more than {count(most, 'run')}"
        caveats.append(f"{few}; published numbers are judged only with at least {MIN_RUNS}.")
    if errors:
        caveats.append(f"{count(errors, 'run')} ended in an error; see “What is missing”.")
    if finished:
        caveats += not_comparable
    versions = {(result.commit, result.dirty) for result in table.results}
    if len(versions) > 1:
        caveats.append(f"The runs were made by {len(versions)} different versions of the code.")
    if any(dirty for _, dirty in versions):
        caveats.append("Some runs were made by code that differs from the commit they name.")
    return caveats


def provenance(results: Sequence[Result]) -> Document:
    """Count the data sets, versions of code and libraries, and devices of some records, errors included.

    Returns:
        - `data`: a list of `{label, fingerprint, runs}`. `code`: a list of `{commit, dirty, runs}`.
        - `versions`: library -> version -> number of runs.
        - `devices`: a list of `{name, kind, runs, hours}`, kind `GPU` or `CPU`. Hours on a GPU are the wall-clock hours
          of its runs (runs that shared it count each), on a CPU core-hours: wall-clock hours times threads.
        - `hours`: kind -> hours on all of its devices.
        - `first_finished`, `last_finished`: UTC, ISO 8601; None without a record.
    """
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    runs: Counter[tuple[str, str]] = Counter()
    hours: dict[tuple[str, str], float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for result in results:
        for library, version in result.versions.items():
            versions[library][version] += 1
        kind = "CPU" if result.options.get("device", "cpu") == "cpu" else "GPU"
        threads = result.options.get("threads", 1)
        taken = result.seconds / 3600 * (threads if kind == "CPU" and isinstance(threads, int) else 1)
        runs[result.device, kind] += 1
        hours[result.device, kind] += taken
        total[kind] += taken
    data = Counter((result.data_label, result.fingerprint) for result in results)
    code = Counter((result.commit, result.dirty) for result in results)
    finished = [result.finished for result in results]
    return {
        "data": [{"label": label, "fingerprint": mark, "runs": n} for (label, mark), n in data.items()],
        "code": [{"commit": commit, "dirty": dirty, "runs": n} for (commit, dirty), n in code.items()],
        "versions": versions,
        "devices": [
            {"name": name, "kind": kind, "runs": n, "hours": hours[name, kind]} for (name, kind), n in runs.items()
        ],
        "hours": total,
        "first_finished": min(finished, default=None),
        "last_finished": max(finished, default=None),
    }

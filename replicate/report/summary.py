"""What a report says first: how far it is, what was found, and its caveats. A table in, numbers and sentences out."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from replicate.report.published import JUDGED, MIN_RUNS, expected_outside
from replicate.report.table import Table
from replicate.report.text import count

ORDER = (*JUDGED, "not judged", "not comparable", "supported", "contradicted", "undecided")


def summary(table: Table) -> dict[str, Any]:
    """Sum up a table.

    Returns:
        - `expected`, `finished`, `converged`, `diverged`, `errors`: numbers of runs.
        - `published`, `claims`: verdict -> number of published numbers, and of claims, that got it.
        - `expected_outside`: how many published numbers are expected outside their interval by chance; None if none is
          judged.
        - `not_comparable`: why cells do not compare with the published numbers, one sentence per reason.
        - `caveats`: sentences on what limits the rest.
    """
    verdicts = [entry.verdict for entry in table.entries.values()]
    words = [entry.verdict.word for entry in table.entries.values() if entry.cell and entry.verdict.word]
    totals = {
        name: sum(getattr(cell, name) for cell in table.cells)
        for name in ("expected", "finished", "converged", "diverged", "errors")
    }
    return {
        **totals,
        "published": _in_order(words) if table.reference else {},
        "claims": _in_order(judgement.verdict for judgement in table.judgements),
        "expected_outside": expected_outside(verdicts) if any(v.word in JUDGED for v in verdicts) else None,
        "not_comparable": _not_comparable(table),
        "caveats": _caveats(table, totals["finished"], totals["expected"], totals["errors"]),
    }


def _caveats(table: Table, finished: int, expected: int, errors: int) -> list[str]:
    caveats = []
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
        caveats += _not_comparable(table)
    commits = {(result.commit, result.dirty) for result in table.results}
    if len(commits) > 1:
        caveats.append(f"The runs were made by {len(commits)} different versions of the code.")
    if any(dirty for _, dirty in commits):
        caveats.append("Some runs were made by code that differs from the commit they name.")
    return caveats


def _not_comparable(table: Table) -> list[str]:
    judged = [entry for entry in table.entries.values() if entry.cell and entry.verdict.word]
    names_by_reason: dict[str, list[str]] = {}
    for entry in judged:
        if entry.cell and entry.verdict.word == "not comparable":
            names_by_reason.setdefault(entry.verdict.reason, []).append(entry.cell.name)
    lines = []
    for reason, names in names_by_reason.items():
        which = "" if len(names) == len(judged) else f" ({', '.join(names)})"
        lines.append(f"Not comparable with the paper{which}: {reason}.")
    return lines


def _in_order(words: Iterable[str]) -> dict[str, int]:
    counts = Counter(words)
    return {word: counts[word] for word in ORDER if counts[word]}

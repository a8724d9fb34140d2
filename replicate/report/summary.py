"""What a report says first: how far it is, what it found, and what to beware of. A table in, sentences out."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replicate.report.markdown import incomparable_lines
from replicate.report.published import JUDGED, MIN_RUNS

if TYPE_CHECKING:
    from replicate.report.table import Table

ORDER = (*JUDGED, "not judged", "not comparable", "supported", "contradicted", "undecided")


@dataclass(frozen=True, slots=True)
class Summary:
    """The head of a report.

    Args:
        finished: runs that yielded a result, a failure to converge included.
        expected: runs asked for.
        errors: runs that crashed.
        published: verdict on a published number -> number of cells.
        claims: verdict on a claim -> number of claims.
        cautions: sentences on what limits the rest.
    """

    finished: int
    expected: int
    errors: int
    published: Mapping[str, int]
    claims: Mapping[str, int]
    cautions: tuple[str, ...]


def summarise(table: "Table") -> Summary:
    """Sum up a table."""
    cells = [entry.cell for entry in table.entries.values() if entry.cell]
    finished, expected = sum(cell.finished for cell in cells), sum(cell.expected for cell in cells)
    errors = sum(cell.errors for cell in cells)
    cautions = []
    if not finished:
        cautions.append("No run has finished yet, so there is nothing to show but what is to do.")
    elif finished < expected:
        cautions.append(f"{expected - finished} of {expected} runs have not finished; the numbers may still move.")
    most = max((cell.n for cell in cells), default=0)
    if most == 1:
        cautions.append(
            f"No cell has more than one run: no spread is known, and no number is judged below {MIN_RUNS} runs."
        )
    elif 1 < most < MIN_RUNS:
        cautions.append(f"No cell has more than {most} runs, and no number is judged below {MIN_RUNS}.")
    if errors:
        cautions.append(f"{errors} run{'s' * (errors > 1)} ended in an error; see what is missing.")
    if finished:
        cautions += incomparable_lines(table)
    commits = {(result.commit, result.dirty) for result in table.results}
    if len(commits) > 1:
        cautions.append(f"The runs were made by {len(commits)} different states of the code.")
    if any(dirty for _, dirty in commits):
        cautions.append("Some runs were made by code that differs from the commit they name.")
    words = [entry.verdict.word for entry in table.entries.values() if entry.cell and entry.verdict.word]
    return Summary(
        finished=finished,
        expected=expected,
        errors=errors,
        published=_ordered(words) if table.reference else {},
        claims=_ordered(judgement.verdict for judgement in table.judgements),
        cautions=tuple(cautions),
    )


def _ordered(words: Iterable[str]) -> dict[str, int]:
    counts = Counter(words)
    return {word: counts[word] for word in ORDER if counts[word]}

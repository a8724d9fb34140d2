"""The table of an experiment: build it from results, and write it as Markdown, LaTeX, CSV and JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.claims import Judgement, judge, load_claims
from replicate.report.document import document, strict_json
from replicate.report.latex import latex
from replicate.report.markdown import markdown
from replicate.report.protocol import Protocol, protocol
from replicate.report.published import Published, Verdict, incomparable, read_reference, recipe_note, verdict
from replicate.report.spreadsheet import cells_csv, runs_csv
from replicate.report.statistics import Cell, Pooled, cells, pooled
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.result import Result
from replicate.store.run_folder import Records


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of the table.

    Args:
        cell: our runs; None where the experiment has none.
        published: the paper's accuracy in %, `n/c`, or None.
        verdict: ours on the paper's.
        notes: indices into the table's footnotes.
    """

    cell: Cell | None
    published: Published | None
    verdict: Verdict
    notes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All that a table says.

    Args:
        name: of the experiment.
        axes: the fields of Run that make the rows and the columns.
        rows: values of the first axis, from top to bottom.
        columns: values of the second axis, from left to right.
        entries: (row value, column value) -> Entry, for every place.
        reference: whether published numbers stand beside ours.
        footnotes: what is special about single cells.
        protocol: what the header names.
        pooled: standard deviation of a run over all converged cells.
        judgements: of the paper's claims.
        missing: run_ids without a readable record.
        results: the records, in the order of the runs.
        bad: records that could not be read, each with its reason.
        others: number of records in the output folder that are not of this table.
    """

    name: str
    axes: tuple[str, str]
    rows: tuple[Any, ...]
    columns: tuple[Any, ...]
    entries: Mapping[tuple[Any, Any], Entry]
    reference: bool
    footnotes: tuple[str, ...]
    protocol: Protocol
    pooled: Pooled | None
    judgements: tuple[Judgement, ...]
    missing: tuple[str, ...]
    results: tuple[Result, ...]
    bad: Mapping[Path, str]
    others: int

    def markdown(self) -> str:
        """The whole report for people, as Markdown."""
        return markdown(self)

    def latex(self) -> str:
        """The grid as LaTeX, a page of its own or a part of a paper."""
        return latex(self)

    def csv(self) -> str:
        """Every number of the table, a row a cell; a missing value is empty."""
        return cells_csv(self)

    def runs_csv(self) -> str:
        """Every record of the table, a row a run: its settings, and the scalars of its result."""
        return runs_csv(self.results)

    def json(self) -> str:
        """All of the table for other programs; `replicate.report.document` says what it holds."""
        return strict_json(document(self))

    def write(self, folder: Path) -> list[Path]:
        """Write `table.md`, `.tex`, `.csv`, `.json` and `runs.csv` to a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"table.md": self.markdown(), "table.tex": self.latex(), "table.csv": self.csv()}
        texts |= {"runs.csv": self.runs_csv(), "table.json": self.json()}
        return [write_atomically(folder / name, text) for name, text in texts.items()]


def build(experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path) -> Table:
    """Build the table of an experiment, of which at least one run has finished.

    Args:
        experiment: as in `assemble`, like runs and records.
        runs: see there.
        records: see there.
        out: the output folder, for messages.

    Raises:
        UsageError: no run has finished, or what `assemble` says.
    """
    require_finished(experiment, records.results.values(), out)
    return assemble(experiment, runs, records)


def assemble(experiment: Experiment, runs: tuple[Run, ...], records: Records) -> Table:
    """Build the table of an experiment, be there records or none.

    Args:
        experiment: names the axes, the published numbers and the claims.
        runs: the runs of the table, all of the experiment's or those that `--only` leaves.
        records: what there is of them.

    Raises:
        UsageError: the records were made on different data sets, a cell mixes settings, or a file of published numbers
            or claims is wrong.
    """
    results = tuple(records.results.values())
    axes = (experiment.table.rows, experiment.table.columns)
    header = protocol(runs, results, axes)
    grid = {(cell.row, cell.column): cell for cell in cells(runs, records.results, *axes)}
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    published = read_reference(experiment.table.reference, *axes) if experiment.table.reference else {}
    spread = pooled(grid.values())
    notes: list[str] = []
    entries = {}
    for place in ((row, column) for row in rows for column in columns):
        cell, number = grid.get(place), published.get(place)
        said = verdict(cell, number, spread) if cell else Verdict("", "not run")
        entries[place] = Entry(cell, number, said, _note(cell, number, header, notes) if cell else ())
    return Table(
        name=experiment.name,
        axes=axes,
        rows=rows,
        columns=columns,
        entries=entries,
        reference=bool(experiment.table.reference),
        footnotes=tuple(notes),
        protocol=header,
        pooled=spread,
        judgements=_judgements(experiment, runs, tuple(grid.values()), axes),
        missing=tuple(run.run_id for run in runs if run.run_id not in records.results),
        results=results,
        bad=records.bad,
        others=records.others,
    )


def require_finished(experiment: Experiment, results: Iterable[Result], out: Path) -> None:
    """Refuse to report on nothing.

    Raises:
        UsageError: no run has finished; the message names the folder and the command that fills it.
    """
    status = Counter(result.status for result in results)
    if status.total() == status["error"]:
        errors = f" ({status['error']} ended in an error)" if status["error"] else ""
        raise UsageError(
            f"{out} holds no finished run of {experiment.name}{errors}; "
            f"fill it with `replicate matrix FILE --out {out}`"
        )


def axis_values(experiment: Experiment, runs: Sequence[Run], axis: str) -> tuple[Any, ...]:
    """The values of an axis that occur among the runs, in the order of the experiment's grid."""
    there = dict.fromkeys(getattr(run, axis) for run in runs)
    return tuple(value for value in experiment.grid.get(axis, there) if value in there)


def _note(cell: Cell, published: Published | None, header: Protocol, notes: list[str]) -> tuple[int, ...]:
    """Collect the footnotes of a cell in `notes`; return their indices."""
    departures = header.departures(cell.run)
    texts = [f"Trained with {departures}, unlike the other cells." if departures else None]
    # where the rest of the protocol does not compare, the recipe is not what is in the way
    texts.append(recipe_note(cell.run) if published is not None and not incomparable(cell.run) else None)
    found = [text for text in texts if text]
    notes.extend(text for text in found if text not in notes)
    return tuple(notes.index(text) for text in found)


def _judgements(
    experiment: Experiment, runs: Sequence[Run], table: Sequence[Cell], axes: tuple[str, str]
) -> tuple[Judgement, ...]:
    if experiment.table.claims is None:
        return ()
    whole = {tuple(getattr(run, axis) for axis in axes): run for run in experiment.runs()}
    here = {(cell.row, cell.column) for cell in table}
    left_out = [run for place, run in whole.items() if place not in here]
    return tuple(judge(claim, table, left_out) for claim in load_claims(experiment.table.claims))

"""The table of an experiment: its cells next to the published numbers, as data. Records in, numbers out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Cell, cells
from replicate.report.claims import Judgement, judge, load_claims
from replicate.report.protocol import Protocol, protocol
from replicate.report.published import Published, Verdict, read_reference, recipe_note, verdict, why_not_comparable
from replicate.report.statistics import Pooled, pooled
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of the table.

    Args:
        cell: our runs; None where the experiment has none.
        published: the paper's accuracy in %, `n/c`, or None.
        verdict: on the published number.
        notes: the footnotes of the place.
    """

    cell: Cell | None
    published: Published | None
    verdict: Verdict
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Everything that a table says.

    Args:
        name: of the experiment.
        axes: the fields of Run that make the rows and the columns.
        rows: values of the first axis, from top to bottom.
        columns: values of the second axis, from left to right.
        order: all values of the first axis in the experiment; figures give each its colour by this order.
        entries: (row value, column value) -> Entry, for every place.
        reference: whether published numbers are shown next to ours.
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
    order: tuple[Any, ...]
    entries: Mapping[tuple[Any, Any], Entry]
    reference: bool
    protocol: Protocol
    pooled: Pooled | None
    judgements: tuple[Judgement, ...]
    missing: tuple[str, ...]
    results: tuple[Result, ...]
    bad: Mapping[Path, str]
    others: int

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Our cells, row by row."""
        return tuple(entry.cell for entry in self.entries.values() if entry.cell)


def build(experiment: Experiment, runs: tuple[Run, ...], records: Records, out: Path) -> Table:
    """Build the table of an experiment of which at least one run has finished.

    Args:
        experiment: as in `assemble`, like runs and records.
        runs: see there.
        records: see there.
        out: the output folder, for messages.

    Raises:
        UsageError: no run has finished, or for the reasons of `assemble`.
    """
    status = Counter(result.status for result in records.results.values())
    if status.total() == status["error"]:
        errors = f" ({status['error']} ended in an error)" if status["error"] else ""
        raise UsageError(
            f"{out} holds no finished run of {experiment.name}{errors}; "
            f"fill it with `replicate matrix FILE --out {out}`"
        )
    return assemble(experiment, runs, records)


def assemble(experiment: Experiment, runs: tuple[Run, ...], records: Records) -> Table:
    """Build the table of an experiment, with or without records.

    Args:
        experiment: names the axes, the published numbers and the claims.
        runs: the runs of the table: all of the experiment's, or those that `--only` leaves.
        records: what there is of them.

    Raises:
        UsageError: the records were made on different data sets, a cell mixes settings, or a file of published numbers
            or claims is wrong.
    """
    spec, results = experiment.table, tuple(records.results.values())
    axes = (spec.rows, spec.columns)
    header = protocol(runs, results, axes)
    grid = {(cell.row, cell.column): cell for cell in cells(runs, records.results, *axes)}
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    published = read_reference(spec.reference, *axes) if spec.reference else {}
    spread = pooled(grid.values())
    entries = {}
    for place in ((row, column) for row in rows for column in columns):
        cell, number = grid.get(place), published.get(place)
        judged = verdict(cell, number, spread) if cell else Verdict("", "not run")
        entries[place] = Entry(cell, number, judged, _notes(cell, number, header) if cell else ())
    return Table(
        name=experiment.name,
        axes=axes,
        rows=rows,
        columns=columns,
        order=tuple(experiment.grid.get(axes[0], rows)),
        entries=entries,
        reference=bool(spec.reference),
        protocol=header,
        pooled=spread,
        judgements=_judgements(experiment, tuple(grid.values())),
        missing=tuple(run.run_id for run in runs if run.run_id not in records.results),
        results=results,
        bad=records.bad,
        others=records.others,
    )


def axis_values(experiment: Experiment, runs: Iterable[Run], axis: str) -> tuple[Any, ...]:
    """The values of an axis that occur among the runs, in the order of the experiment's grid."""
    present = dict.fromkeys(getattr(run, axis) for run in runs)
    return tuple(value for value in experiment.grid.get(axis, present) if value in present)


def _notes(cell: Cell, published: Published | None, header: Protocol) -> tuple[str, ...]:
    departures = header.departures(cell.run)
    notes = [f"Trained with {departures}, unlike the other cells."] if departures else []
    # if the rest of the protocol does not compare, the recipe makes no difference
    if published is not None and not why_not_comparable(cell.run) and (note := recipe_note(cell.run)):
        notes.append(note)
    return tuple(notes)


def _judgements(experiment: Experiment, table: Sequence[Cell]) -> tuple[Judgement, ...]:
    spec = experiment.table
    if spec.claims is None:
        return ()
    whole = {(getattr(run, spec.rows), getattr(run, spec.columns)): run for run in experiment.runs()}
    present = {(cell.row, cell.column) for cell in table}
    left_out = [run for place, run in whole.items() if place not in present]
    return tuple(judge(claim, table, left_out) for claim in load_claims(spec.claims))

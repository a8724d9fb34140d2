"""The table of an experiment: its cells next to the published numbers, as data. Records in, numbers out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Cell, cells
from replicate.report.claims import Judgement, judge, load_claims
from replicate.report.published import Published, Verdict, read_reference, recipe_note, verdict, why_not_comparable
from replicate.report.statistics import Pooled, pooled
from replicate.report.text import display_name
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records


@dataclass(frozen=True, slots=True)
class Protocol:
    """What the runs of a table share: its header.

    Args:
        data_label: display name of the data set.
        dataset: the data set as runs name it.
        fingerprint: sha256 of the data set's content.
        settings: field of Run -> the value of most cells; the table's axes and the seed are left out.
        seeds: of the runs asked for, in ascending order.
        classes: of the data set; None if no record has it.
    """

    data_label: str
    dataset: str
    fingerprint: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    classes: int | None

    def texts(self) -> dict[str, str]:
        """The protocol in words: `schedule`, `preprocessing`, `network`, `precision`, and `summary` for captions."""
        value = {field.name: "(an axis of the table)" for field in fields(Run)}
        value |= {name: display_name(setting) for name, setting in self.settings.items()}
        templates = {
            "schedule": "{iterations} iterations of {batch_size} images; learning rate {lr}, times {lr_factor} at "
            "{milestones}; momentum {momentum}; weight decay {weight_decay}",
            "preprocessing": "{preprocessing}, times {input_scale}",
            "network": "{model}, width {width}",
            "precision": "{precision}",
            "summary": "{model} at width {width}, {iterations} iterations, {precision}",
        }
        texts = {name: template.format_map(value) for name, template in templates.items()}
        return {**texts, "summary": f"{self.data_label}, {texts['summary']}"}  # a label may hold braces

    def departures(self, run: Run) -> str:
        """The settings of a run that are not those of most cells: `momentum 0.5`; empty if there are none."""
        return ", ".join(
            f"{name} {display_name(value)}"
            for name, usual in self.settings.items()
            if (value := getattr(run, name)) != usual
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """What the table shows for one row and column.

    Args:
        cell: our runs; None if the experiment has none.
        published: the paper's accuracy in %, `n/c`, or None.
        verdict: on the published number.
        notes: footnotes.
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
        entries: (row value, column value) -> Entry, row by row.
        reference: whether published numbers are shown next to ours.
        protocol: the header.
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
    """Build the table as `assemble` does, if at least one run has finished.

    Raises:
        UsageError: no run has finished (the message names `out`, the output folder), or as `assemble`.
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
        runs: the runs of the table, all of the experiment's or some of them.
        records: the records of these runs.

    Raises:
        UsageError: the records were made on different data sets, a cell mixes settings, or a file of published numbers
            or claims is wrong.
    """
    spec, results = experiment.table, tuple(records.results.values())
    axes = (spec.rows, spec.columns)
    protocol = shared_protocol(runs, results, axes)
    grid = {(cell.row, cell.column): cell for cell in cells(runs, records.results, *axes)}
    rows, columns = (axis_values(experiment, runs, axis) for axis in axes)
    published = read_reference(spec.reference, *axes) if spec.reference else {}
    spread = pooled(grid.values())
    entries = {}
    for key in product(rows, columns):
        cell, number = grid.get(key), published.get(key)
        entries[key] = Entry(cell, number, verdict(cell, number, spread), _notes(cell, number, protocol))
    return Table(
        name=experiment.name,
        axes=axes,
        rows=rows,
        columns=columns,
        entries=entries,
        reference=bool(spec.reference),
        protocol=protocol,
        pooled=spread,
        judgements=_judgements(experiment, grid),
        missing=tuple(run.run_id for run in runs if run.run_id not in records.results),
        results=results,
        bad=records.bad,
        others=records.others,
    )


def shared_protocol(runs: Sequence[Run], results: Iterable[Result], axes: Iterable[str]) -> Protocol:
    """Find what runs share.

    Args:
        runs: the runs of the table.
        results: their records.
        axes: the fields of Run that make the table's rows and columns.

    Raises:
        UsageError: the records were made on more than one data set.
    """
    made_on: dict[str, list[Result]] = {}
    for result in results:
        if result.fingerprint != "unknown":  # it failed before the data was read
            made_on.setdefault(result.fingerprint, []).append(result)
    if len(made_on) > 1:
        named = [f"{len(made)} on {made[0].data_label} ({mark})" for mark, made in made_on.items()]
        raise UsageError(f"a table holds one data set, but of these runs {' and '.join(named)}; use one --out for each")
    mark, made = next(iter(made_on.items()), ("unknown", []))
    names = [field.name for field in fields(Run) if field.name not in ("seed", *axes)]
    settings = {name: Counter(getattr(run, name) for run in runs).most_common(1)[0][0] for name in names}
    label = made[0].data_label if made else runs[0].dataset
    classes = next((result.classes for result in made if result.classes), None)
    return Protocol(label, runs[0].dataset, mark, settings, tuple(sorted({run.seed for run in runs})), classes)


def axis_values(experiment: Experiment, runs: Iterable[Run], axis: str) -> tuple[Any, ...]:
    """The values of an axis that occur among the runs, in the order of the experiment's grid."""
    present = dict.fromkeys(getattr(run, axis) for run in runs)
    return tuple(value for value in experiment.grid.get(axis, present) if value in present)


def _notes(cell: Cell | None, published: Published | None, protocol: Protocol) -> tuple[str, ...]:
    if cell is None:
        return ()
    departures = protocol.departures(cell.run)
    notes = [f"Trained with {departures}, unlike the other cells."] if departures else []
    # if the rest of the protocol does not compare, the recipe makes no difference
    if published is not None and not why_not_comparable(cell.run) and (note := recipe_note(cell.run)):
        notes.append(note)
    return tuple(notes)


def _judgements(experiment: Experiment, grid: Mapping[tuple[Any, Any], Cell]) -> tuple[Judgement, ...]:
    spec = experiment.table
    if spec.claims is None:
        return ()
    whole = {(getattr(run, spec.rows), getattr(run, spec.columns)): run for run in experiment.runs()}
    left_out = [run for key, run in whole.items() if key not in grid]
    return tuple(judge(claim, tuple(grid.values()), left_out) for claim in load_claims(spec.claims))

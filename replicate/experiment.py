"""Experiment: a grid of runs, read from a YAML file, checked, changed by the command line and expanded."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, Strict, TypeAdapter
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from replicate.errors import UsageError, unknown
from replicate.experiment_file import read_file
from replicate.field_types import STRICT
from replicate.grid import MAX_COMPARISONS, check_count, choose, matches, values_of
from replicate.run import DEFAULTS, TYPES, Run, Settings

NAME = r"^\w[\w .+-]{0,99}$"  # name of a folder
SECTION = ConfigDict(extra="forbid")


if TYPE_CHECKING:
    Axes = dict[str, tuple[Any, ...]]
else:
    # the values of some fields of a Run, by field
    _VALUES = {name: Annotated[tuple[kind, ...], Field(min_length=1, strict=False)] for name, kind in TYPES.items()}
    Axes = TypedDict("Axes", _VALUES, total=False)
    Axes.__pydantic_config__ = STRICT
Pattern = Annotated[Settings, Field(json_schema_extra={"minProperties": 1})]


@dataclass(frozen=True, slots=True, config=SECTION)
class TableSpec:
    """How an experiment's results are laid out: the table's axes, and the published numbers and claims next to it."""

    rows: Annotated[str, Field(description="field of a run that makes the rows")] = "init"
    columns: Annotated[str, Field(description="field of a run that makes the columns")] = "activation"
    reference: Annotated[Path | None, Field(description="CSV file of published numbers")] = None
    claims: Annotated[Path | None, Field(description="YAML file of published claims")] = None
    more_seeds: Annotated[
        tuple[Annotated[int, Strict(), Field(ge=0)], ...],
        Field(description="further seeds; the table includes their runs as far as there are any"),
    ] = ()


@dataclass(frozen=True, slots=True, config=SECTION)
class Override:
    """Settings of the runs that match `when`, such as the recipe that the authors released for one cell."""

    when: Annotated[Pattern, Field(description="the runs to change, by the values of some fields")]
    set: Annotated[Pattern, Field(description="their new settings")]


@dataclass(frozen=True, slots=True, config=SECTION)
class Experiment:
    """A named grid of runs."""

    name: Annotated[
        str, Field(pattern=NAME, description="names the output folder and the W&B group; default: the file's name")
    ]
    grid: Annotated[Axes, Field(description="field of a run -> list of values; the runs are the product of the axes")]
    run: Annotated[Settings, Field(description="the settings that all runs share")] = field(default_factory=dict)
    exclude: Annotated[
        tuple[Pattern, ...], Field(description="partial runs; every run that matches one of them is left out")
    ] = ()
    overrides: Annotated[
        tuple[Override, ...], Field(description="changes to the runs that match, applied in order")
    ] = ()
    table: Annotated[TableSpec, Field(description="layout of the table")] = TableSpec()

    def __post_init__(self) -> None:
        runs, patterns = math.prod(map(len, self.grid.values())), len(self.overrides) + len(self.exclude)
        check_count("the grid has", runs)
        pairs = f"{runs:,} runs with {patterns:,} overrides and exclusions make"
        check_count(pairs, runs * patterns, "comparisons", MAX_COMPARISONS)
        for name, values in self.grid.items():
            if twice := [value for value, number in Counter(values).items() if number > 1]:
                raise UsageError(f"grid.{name} holds {twice[0]!r} twice")
        if twice := sorted(self.grid.keys() & self.run.keys()):
            raise UsageError(f"{twice[0]} is in both grid and run; remove one of them")
        for key in ("rows", "columns"):
            if (axis := getattr(self.table, key)) not in (*self.grid, "init", "activation"):
                raise unknown(f"axis in table.{key}", axis, self.grid)
            if axis == "seed" and self.table.more_seeds:
                raise UsageError(f"table.{key} is seed, so more_seeds has no cells to add to; remove one of them")

    @classmethod
    def load(cls, path: str | Path) -> "Experiment":
        """Read an experiment file.

        Raises:
            UsageError: the file is missing, empty or not YAML, or it has a wrong key, type, value or axis. The message
                starts with the file's name.
        """
        path = Path(path)

        def check(content: Any) -> "Experiment":
            if isinstance(content, dict) and "space" in content:
                raise UsageError("this is a search, not an experiment; use replicate search")
            experiment = _EXPERIMENT.validate_python(content)
            table = experiment.table
            reference, claims = (_find(path, name) if name else None for name in (table.reference, table.claims))
            experiment = replace(experiment, table=replace(table, reference=reference, claims=claims))
            experiment._check_patterns(experiment._expand()[1])
            return experiment

        return read_file(path, check, KEYS)

    def with_settings(self, settings: Mapping[str, Any]) -> "Experiment":
        """Return a copy with other settings (`--set`): a list replaces an axis, a value is set for all runs.

        These settings also replace those of the file's overrides.

        Args:
            settings: field of Run -> value or list of values. A number or a flat list of numbers for `milestones` is
                one value.
        """
        grid, shared = dict(self.grid), dict(self.run)
        for key, given in settings.items():
            values = values_of(key, given)
            if key in grid or len(values) > 1:
                grid[key] = values
                shared.pop(key, None)
            else:
                shared[key] = values[0]
        overrides = tuple(
            Override(one.when, {key: value for key, value in one.set.items() if key not in settings})
            for one in self.overrides
        )
        table = replace(self.table, more_seeds=()) if "seed" in settings else self.table
        changed = replace(self, grid=grid, run=shared, overrides=overrides, table=table)
        changed.runs()
        return changed

    def runs(self, only: Mapping[str, Any] | None = None) -> tuple[Run, ...]:
        """Expand the grid.

        Seeds are the outer loop, wherever they are in the file, so the whole table fills before any cell is refined.

        Args:
            only: field of Run -> value or list of values; keeps only runs with these values (`--only`).

        Raises:
            UsageError: a run is invalid, two runs have the same settings, or no run remains.
        """
        return choose(self._expand()[0], only or {})

    def _expand(self) -> tuple[list[Run], set[int]]:
        """Return the runs of the grid, and the `id` of each pattern that matches settings when its turn comes."""
        runs, used = [], set[int]()
        for settings in self._grid_points():
            for override in self.overrides:
                if matches(settings, override.when):
                    used.add(id(override.when))
                    settings.update(override.set)
            if found := [id(pattern) for pattern in self.exclude if matches(settings, pattern)]:
                used.update(found)
                continue
            if missing := [key for key in ("init", "activation") if key not in settings]:
                raise UsageError(f"{missing[0]} is missing; give it in grid or in run")
            runs.append(Run(**settings))
        if not runs:
            raise UsageError("no run is left: exclude covers the whole grid")
        if len({run.run_id for run in runs}) < len(runs):
            raise UsageError("two runs of the grid have the same settings; an override undoes what an axis varies")
        self._cells(runs)
        return runs, used

    def more_runs(self, runs: Collection[Run]) -> tuple[Run, ...]:
        """The cells of some runs with the seeds of `table.more_seeds`."""
        there, cells = {*runs}, self._cells(runs)
        more = (replace(cell, seed=seed) for seed in self.table.more_seeds for cell in cells)
        return tuple(run for run in more if run not in there)

    def _cells(self, runs: Iterable[Run]) -> Collection[Run]:
        """The runs that more seeds are given to: one per cell, with seed 0; none if there are no more seeds."""
        seeds = len(self.table.more_seeds)
        cells = dict.fromkeys(replace(run, seed=0) for run in runs if seeds)
        check_count(f"{len(cells):,} cells and {seeds:,} of table.more_seeds make", seeds * len(cells))
        return cells

    def _grid_points(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of every run of the grid, defaults included, before overrides and exclusions."""
        axes = sorted(self.grid, key=lambda axis: axis != "seed")
        for values in itertools.product(*(self.grid[axis] for axis in axes)):
            yield {**DEFAULTS, **self.run, **dict(zip(axes, values, strict=True))}

    def has_cell(self, row: object, column: object) -> bool:
        """Whether the table has such a cell: no exclusion names its row and column, whatever the other settings."""
        shared = {key: value for key, value in {**DEFAULTS, **self.run}.items() if key not in self.grid}
        cell = {**shared, self.table.rows: row, self.table.columns: column}
        return not any(matches(cell, pattern) for pattern in self.exclude)

    def _check_patterns(self, used: Container[int]) -> None:
        """Refuse a pattern that matches no run of the file's grid when its turn comes: it is a typing error."""
        patterns = [("exclude", pattern) for pattern in self.exclude]
        for kind, pattern in patterns + [("when", override.when) for override in self.overrides]:
            if id(pattern) not in used:
                text = ", ".join(f"{key}: {value}" for key, value in pattern.items())
                raise UsageError(f"{kind} {{{text}}} matches no run of the grid")


def _find(experiment: Path, name: Path) -> Path:
    """Find a file of the project that an experiment file names, relative to the nearest folder above that has it."""
    if name.is_absolute() or ".." in name.parts:
        raise UsageError(f"table names '{name}', which leads out of the project; give a name such as results/a.csv")
    for folder in experiment.resolve().parents[:-1]:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"table names '{name}', which is in no folder above the experiment file")


_EXPERIMENT = TypeAdapter(Experiment)
# section -> its keys, for the message about an unknown key
KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("name", "grid", "exclude", "run", "overrides", "table"),
    "table": ("rows", "columns", "reference", "claims", "more_seeds"),
    "overrides": ("when", "set"),
    **dict.fromkeys(("grid", "run", "exclude", "when", "set"), tuple(TYPES)),
}


def json_schema() -> str:
    """Return the JSON schema of experiment files, which editors read from `experiments/schema.json`."""
    schema = _EXPERIMENT.json_schema()
    schema["required"].remove("name")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=1) + "\n"

"""Experiment: a grid of runs, read from a YAML file, validated, narrowed by the command line and expanded."""

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from replicate.errors import UsageError, unknown
from replicate.run import DEFAULTS, Run, checked, coerce, matches
from replicate.untrusted import read_bytes
from replicate.yamlfile import MOST_BYTES, parse

KEYS = ("name", "grid", "exclude", "run", "overrides", "table")
TABLE_KEYS = ("rows", "columns", "reference", "claims")
NAME = r"\w[\w .+-]{0,99}"  # it names a folder
MOST_RUNS = 100_000  # of a grid; far more than anybody trains, and few enough to list


@dataclass(frozen=True, slots=True)
class TableSpec:
    """How an experiment's results are laid out: the table's axes, and the published numbers and claims beside it."""

    rows: str = "init"
    columns: str = "activation"
    reference: Path | None = None
    claims: Path | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """Settings of the runs that match `when`, such as the recipe that the authors released for one cell."""

    when: Mapping[str, Any]
    set: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    """A named grid of runs.

    Args:
        name: names the default output folder and the W&B group.
        grid: field of Run -> its values; the runs are the product of the axes.
        run: the settings that all runs share.
        exclude: partial runs; every run that matches one of them is left out.
        overrides: applied in order to the runs they match.
        table: layout of the table.
    """

    name: str
    grid: Mapping[str, tuple[Any, ...]]
    run: Mapping[str, Any]
    exclude: tuple[Mapping[str, Any], ...] = ()
    overrides: tuple[Override, ...] = ()
    table: TableSpec = TableSpec()

    @classmethod
    def load(cls, path: str | Path) -> "Experiment":
        """Read an experiment file.

        Raises:
            UsageError: the file is not there, is empty or no YAML, or a key, type, value or axis in it is wrong; the
                message begins with the file's name.
        """
        path = Path(path)
        try:
            content = parse(read_bytes(path, MOST_BYTES).decode())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UsageError(f"{path}: cannot read the experiment file: {reason}") from None
        except yaml.YAMLError as error:
            where, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
            line = f" (line {where.line + 1})" if where else ""
            raise UsageError(f"{path}: not a YAML file{line}: {' '.join(problem.split())}") from None
        try:
            experiment = cls._parse(content, path)
            experiment.runs()  # every run of the grid is valid, and there is at least one
            experiment._check_patterns()
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
        return experiment

    @classmethod
    def _parse(cls, content: object, path: Path) -> "Experiment":
        if content is None:
            raise UsageError(f"the experiment file is empty; it needs: {', '.join(KEYS[:2])}")
        parts = _mapping("the file", content, KEYS)
        name = parts.get("name", path.stem)
        if not isinstance(name, str) or not re.fullmatch(NAME, name):
            raise UsageError(f"name must be a plain word, not {name!r}")
        grid = {key: _axis(key, values) for key, values in _mapping("grid", parts.get("grid")).items()}
        shared = {key: coerce(key, value) for key, value in _mapping("run", parts.get("run", {})).items()}
        if twice := sorted(grid.keys() & shared.keys()):
            raise UsageError(f"{twice[0]} stands both in grid and in run; keep one")
        exclude = tuple(_patterns("exclude", parts.get("exclude", [])))
        overrides = []
        for item in _list("overrides", parts.get("overrides", [])):
            both = _mapping("an override", item, ("when", "set"))
            (when,) = _patterns("when", [both.get("when")])
            (change,) = _patterns("set", [both.get("set")])
            overrides.append(Override(when, change))
        table = _mapping("table", parts.get("table", {}), TABLE_KEYS)
        for key in ("rows", "columns"):
            if table.get(key, "init") not in (*grid, "init", "activation"):
                raise unknown(f"axis in table.{key}", table[key], grid)
        files = {key: _find(path, table[key]) for key in ("reference", "claims") if table.get(key) is not None}
        return cls(name, grid, shared, exclude, tuple(overrides), TableSpec(**{**table, **files}))

    def with_settings(self, settings: Mapping[str, Any]) -> "Experiment":
        """Replace settings (`--set`): a list becomes the axis, one value becomes the setting of all runs.

        What the user sets also wins over the file's overrides.

        Args:
            settings: field of Run -> value or list of values. A flat list of numbers for `milestones` is one value.
        """
        grid, shared = dict(self.grid), dict(self.run)
        for key, value in settings.items():
            nested = isinstance(value, list) and any(isinstance(item, list) for item in value)
            if isinstance(value, list) and (key != "milestones" or nested):
                grid[key] = _axis(key, value)
                shared.pop(key, None)
            elif key in grid:
                grid[key] = (coerce(key, value),)
            else:
                shared[key] = coerce(key, value)
        overrides = tuple(
            Override(o.when, {key: value for key, value in o.set.items() if key not in settings})
            for o in self.overrides
        )
        changed = replace(self, grid=grid, run=shared, overrides=overrides)
        changed.runs()
        return changed

    def runs(self, only: Mapping[str, Any] | None = None) -> tuple[Run, ...]:
        """Expand the grid.

        Seeds form the outer loop, whatever their place in the file: the whole table fills before any cell is refined.

        Args:
            only: field of Run -> value or list of values; runs with other values are left out (`--only`).

        Raises:
            UsageError: an invalid run, two runs with the same settings, or no run is left.
        """
        if (count := math.prod(map(len, self.grid.values()))) > MOST_RUNS:
            raise UsageError(f"the grid has {count:,} runs, and {MOST_RUNS:,} are the most")
        axes = sorted(self.grid, key=lambda axis: axis != "seed")
        runs = []
        for values in itertools.product(*(self.grid[axis] for axis in axes)):
            settings = {**self.run, **dict(zip(axes, values, strict=True))}
            for override in self.overrides:
                if matches(DEFAULTS | settings, override.when):
                    settings |= override.set
            if not any(matches(DEFAULTS | settings, pattern) for pattern in self.exclude):
                runs.append(_run(settings))
        if not runs:
            raise UsageError("no run is left: exclude covers the whole grid")
        if len({run.run_id for run in runs}) < len(runs):
            raise UsageError("two runs of the grid have the same settings; an override undoes what an axis varies")
        return _only(runs, only or {})

    def _check_patterns(self) -> None:
        """Refuse a pattern that no run of the file's own grid matches: it is a slip of the hand."""
        values = itertools.product(*self.grid.values())
        grid = [{**DEFAULTS, **self.run, **dict(zip(self.grid, item, strict=True))} for item in values]
        changed = [{**settings, **override.set} for override in self.overrides for settings in grid]
        patterns = [("exclude", pattern, grid + changed) for pattern in self.exclude]
        for kind, pattern, candidates in patterns + [("when", o.when, grid + changed) for o in self.overrides]:
            if not any(matches(settings, pattern) for settings in candidates):
                text = ", ".join(f"{key}: {value}" for key, value in pattern.items())
                raise UsageError(f"{kind} {{{text}}} matches no run of the grid")


def _run(settings: Mapping[str, Any]) -> Run:
    if missing := [key for key in ("init", "activation") if key not in settings]:
        raise UsageError(f"{missing[0]} is missing; give it in grid or in run")
    return Run(**settings)


def _only(runs: list[Run], only: Mapping[str, Any]) -> tuple[Run, ...]:
    for key, given in only.items():
        several = isinstance(given, list) and (key != "milestones" or any(isinstance(item, list) for item in given))
        wanted = [coerce(key, value) for value in (given if several else [given])]
        there = list(dict.fromkeys(getattr(run, key) for run in runs))
        for value in wanted:
            if value not in there:
                raise unknown(f"{key} in --only", value, map(str, there))
        runs = [run for run in runs if getattr(run, key) in wanted]
        if not runs:
            raise UsageError(f"no run is left: none of the grid has {key} = {', '.join(map(str, wanted))} as well")
    return tuple(runs)


def _axis(key: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, list):
        raise UsageError(f"grid.{key} must be a list of values, not {values!r}")
    if not values:
        raise UsageError(f"grid.{key} is empty; give at least one value")
    axis = tuple(coerce(key, value) for value in values)
    if twice := [value for index, value in enumerate(axis) if value in axis[:index]]:
        raise UsageError(f"grid.{key} holds {twice[0]!r} twice")
    return axis


def _patterns(key: str, items: object) -> Iterable[dict[str, Any]]:
    for item in _list(key, items):
        pattern = _mapping(key, item)
        if not pattern:
            raise UsageError(f"{key} holds an empty entry; give at least one `field: value`")
        yield {name: checked(name, value) for name, value in pattern.items()}


def _list(key: str, items: object) -> list[Any]:
    if not isinstance(items, list):
        raise UsageError(f"{key} must be a list, not {items!r}")
    return items


def _mapping(key: str, value: object, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{key} must be a mapping of `key: value` lines, not {value!r}")
    for name in value:
        if choices and name not in choices:
            raise unknown(f"key in {key}", name, choices)
    return {str(name): item for name, item in value.items()}


def _find(experiment: Path, name: object) -> Path:
    """Resolve a file named in an experiment file: the name starts at the nearest folder above that holds it.

    An absolute name, one with `..`, and one that starts at the file system's root are none of the project's files.
    """
    if Path(str(name)).is_absolute() or ".." in Path(str(name)).parts:
        raise UsageError(f"table names {name!r}, which leads out of the project; give a name such as results/a.csv")
    for folder in experiment.resolve().parents[:-1]:
        if (folder / str(name)).is_file():
            return folder / str(name)
    raise UsageError(f"table names {name!r}, which is in no folder above the experiment file")

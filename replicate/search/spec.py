"""Search files: what `replicate search` reads."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from replicate.errors import UsageError
from replicate.experiment import NAME, SECTION, Experiment
from replicate.experiment_file import read_file
from replicate.field_types import WHOLE
from replicate.grid import check_count, values_of
from replicate.run import DEFAULTS, TYPES, Run, Settings
from replicate.search.space import FIXED, Range, check_space, grid_points

FACTOR = 3  # a rung trains this many times as long as the one below, as in Hyperband
Method = Literal["grid", "random", "tpe"]


@dataclass(frozen=True, slots=True, config=SECTION)
class Stage:
    """One stage of a search. Each later stage searches around the best trials of the one before."""

    trials: Annotated[int, Field(ge=1, le=10_000, description="trials of each method"), WHOLE]
    length: Annotated[float, Field(ge=1e-4, le=1, description="share of run.iterations that a trial trains for")] = 1.0
    rungs: Annotated[
        int,
        Field(
            ge=1, le=6, description="lengths of Hyperband's trainings, each three times the one before; 1: no pruning"
        ),
        WHOLE,
    ] = 1


@dataclass(frozen=True, slots=True, config=SECTION)
class Search:
    """A search for the settings with the highest accuracy on validation images."""

    name: Annotated[str, Field(pattern=NAME, description="names the output folder; default: the file's name")]
    run: Annotated[Settings, Field(description="the settings that all trials share; validation must be among them")]
    space: Annotated[
        Mapping[str, Any],
        Field(min_length=1, description="field of a run -> {low, high, log}, or a list of values"),
    ]
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=10, description="coarse first, then finer")]
    methods: Annotated[tuple[Method, ...], Field(min_length=1, description="each has the same number of trials")] = (
        "random",
    )
    batch: Annotated[
        int,
        Field(ge=1, le=1000, description="trials that TPE chooses at a time; the fewer, the better"),
        WHOLE,
    ] = 4
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="of the choice of the trials"), WHOLE] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", check_space(self.space))
        if not self.run.get("validation"):
            raise UsageError(
                "run.validation is missing, so the settings would be chosen by the test images; give a number of "
                "training images to hold out, such as validation: 5000"
            )
        if twice := sorted(self.space.keys() & self.run.keys()):
            raise UsageError(f"{twice[0]} is in both space and run; remove one of them")
        for name in ("init", "activation"):
            if name not in {**self.space, **self.run}:
                raise UsageError(f"{name} is missing; give it in space or in run")
        if len(set(self.methods)) < len(self.methods):
            raise UsageError("methods names one twice")
        self.examples()
        if "grid" in self.methods:
            for stage in self.stages:
                grid_points(self.space, stage.trials)

    @classmethod
    def load(cls, path: Path) -> "Search":
        """Read a search file. Raises UsageError as `Experiment.load`."""

        def check(content: Any) -> "Search":
            if isinstance(content, dict) and "grid" in content:
                raise UsageError("this is an experiment, not a search; use replicate matrix")
            return _SEARCH.validate_python(content)

        return read_file(path, check, KEYS)

    def with_settings(self, settings: Mapping[str, Any]) -> "Search":
        """Return a copy with other settings (`--set`): a value fixes a field, a list gives the choices for it."""
        shared, space = dict(self.run), dict(self.space)
        for name, given in settings.items():
            values = values_of(name, given)
            shared.pop(name, None)
            space.pop(name, None)
            if len(values) > 1 and name in FIXED:
                raise UsageError(f"a search does not choose {name}; give one value")
            if len(values) > 1:
                space[name] = values
            else:
                shared[name] = values[0]
        if not space:
            raise UsageError("--set fixes every field of the space, so there is nothing to search for")
        return replace(self, run=shared, space=space)

    def run_of(self, point: Mapping[str, Any], stage: Stage, rung: int) -> Run:
        """The run of a trial at a rung, from 0: a whole training, with a schedule of its length."""
        whole = Run(**{**DEFAULTS, **self.run, **point})
        share = stage.length / FACTOR ** (stage.rungs - 1 - rung)
        iterations = max(1, round(whole.iterations * share))
        milestones = dict.fromkeys(round(mark * share) for mark in whole.milestones)
        inside = tuple(mark for mark in milestones if 0 < mark < iterations)
        return replace(whole, iterations=iterations, milestones=inside)

    def experiment(self, runs: Sequence[Run]) -> Experiment:
        """The experiment that some of its runs are carried out in: their table has initialisations and activations."""
        grid = {name: tuple(dict.fromkeys(getattr(run, name) for run in runs)) for name in ("init", "activation")}
        return Experiment(self.name, grid)

    def examples(self) -> list[Run]:
        """One run for each combination of choices at the low ends of the ranges, and one at the high ends."""
        choices = {name: values for name, values in self.space.items() if not isinstance(values, Range)}
        check_count("the lists of the space make", math.prod(map(len, choices.values())), "combinations")
        ranges = {name: (v.low, v.high) for name, v in self.space.items() if isinstance(v, Range)}
        points = (dict(zip(choices, point, strict=True)) for point in itertools.product(*choices.values()))
        low, high = ({name: ends[end] for name, ends in ranges.items()} for end in (0, 1))
        return [self.run_of({**point, **ends}, self.stages[0], 0) for point in points for ends in (low, high)]


_SEARCH = TypeAdapter(Search)
# section -> its keys, for the message about an unknown key
KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("name", "run", "space", "stages", "methods", "batch", "seed"),
    "run": tuple(TYPES),
    "stages": ("trials", "length", "rungs"),
}

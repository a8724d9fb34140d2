"""Which points a method tries next: decided by the search file and the outcomes so far, and by nothing else."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from replicate.search.space import Range, Space, grid_points, readable
from replicate.search.spec import Method, Search
from replicate.yamlfile import is_whole

Point = Mapping[str, Any]  # field of Run -> value
Ended = Sequence[tuple[Point, Mapping[int, float], bool]]  # point, accuracies by rung, and whether it was pruned

optuna.logging.set_verbosity(optuna.logging.WARNING)


def next_points(search: Search, method: Method, stage: int, space: Space, ended: Ended) -> list[Point]:
    """Choose the points of the next trials of a method in a stage, all of which can be carried out at once.

    Args:
        search: the search.
        method: of choosing them.
        stage: its index, from 0.
        space: of the stage.
        ended: the earlier trials of the stage, in their order; a failed one has no accuracies.

    Returns:
        The points; none if the stage has all its trials.
    """
    first, trials = len(ended), search.stages[stage].trials
    if method == "grid":
        points = grid_points(space, trials)
        random.Random(search.seed).shuffle(points)  # a trial is compared with earlier ones
        return [*points[first:]]
    startup = trials if method == "random" else min(trials, search.batch)  # TPE's first batch is random: our choice
    if first < startup:
        return [_ask(RandomSampler(_seed(search, stage, n)), space, (), 1)[0] for n in range(first, startup)]
    sampler = TPESampler(n_startup_trials=1, constant_liar=True, seed=_seed(search, stage, first))
    return _ask(sampler, space, ended, min(search.batch, trials - first))


def frozen(space: Space, point: Point, accuracies: Mapping[int, float], pruned: bool) -> FrozenTrial:
    """A trial that has ended, in Optuna's terms; the accuracies are by rung."""
    state = TrialState.PRUNED if pruned else TrialState.COMPLETE if accuracies else TrialState.FAIL
    return create_trial(
        state=state,
        value=accuracies[max(accuracies)] if state == TrialState.COMPLETE else None,
        params=dict(point),
        distributions=distributions(space),
        intermediate_values=dict(accuracies),
    )


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    found: dict[str, BaseDistribution] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution(values)
        elif is_whole(name):
            found[name] = IntDistribution(math.ceil(values.low), math.floor(values.high), values.log)
        else:
            found[name] = FloatDistribution(values.low, values.high, values.log)
    return found


def _ask(sampler: BaseSampler, space: Space, ended: Ended, count: int) -> list[Point]:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials(frozen(space, *one) for one in ended)
    asked = [study.ask(distributions(space)).params for _ in range(count)]
    return [{name: _value(name, params[name], values) for name, values in space.items()} for params in asked]


def _value(name: str, value: Any, values: Range | tuple[Any, ...]) -> Any:
    return readable(name, value, values) if isinstance(values, Range) else value


def _seed(search: Search, stage: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{search.seed}/{stage}/{number}".encode()).digest()[:4], "big")

"""The trials of a search, as studies in Optuna's storage, one for each method and stage."""

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from replicate.errors import UsageError
from replicate.run import Run
from replicate.search.space import Range, Space, grid_points, is_whole, narrow, readable
from replicate.search.spec import FACTOR, Method, Search, Stage
from replicate.store.files import refuse_link
from replicate.store.run_folder import collect

FILE = "search.db"  # in the output folder
BEST = 4  # one in so many trials is among the best, which the next stage searches around: our choice
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Outcome(NamedTuple):
    """What a trial has found.

    Args:
        method: that chose it.
        stage: from 1.
        trial: its number in its stage, from 0.
        point: field of Run -> value.
        state: `complete`, `pruned`, or `failed` if its run ended in an error.
        run: the longest of its runs.
        accuracy: of that run on the validation images, in %; 0 if it diverged, None if it failed.
        first_accuracy: the same of its shortest run.
        iterations: of all its runs.
    """

    method: Method
    stage: int
    trial: int
    point: Mapping[str, Any]
    state: str
    run: Run
    accuracy: float | None
    first_accuracy: float | None
    iterations: int


class Studies:
    """The studies of a search.

    Args:
        search: what is searched for.
        out: the output folder, which holds the records and the storage.

    Raises:
        UsageError: the storage cannot be read, or holds another search.
    """

    def __init__(self, search: Search, out: Path) -> None:
        self.search, self.out = search, out
        path = out / FILE
        refuse_link(path)
        try:
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
            there = optuna.get_all_study_summaries(self._storage)
        except (SQLAlchemyError, RuntimeError) as error:
            raise UsageError(
                f"cannot read {path}: {str(error).splitlines()[0]}; move the file elsewhere, and the search begins "
                "again with the records that there are"
            ) from None
        if any(study.user_attrs.get("search", search.digest) != search.digest for study in there):
            raise UsageError(f"{path} belongs to a search with other settings; give another --out")

    def rounds(self, method: Method) -> Iterator[list[Run]]:
        """Carry out all stages of a method. Yield the runs that it needs next, and continue when they have records."""
        space: Space = self.search.space
        for number, stage in enumerate(self.search.stages, start=1):
            study, trials = self._open(method, number, stage), stage.trials
            if method == "grid":
                points = grid_points(space, trials)
                random.Random(self.search.seed).shuffle(points)  # Hyperband compares a trial with earlier ones
                for point in points:
                    study.enqueue_trial(point, skip_if_exists=True)
                trials = len(points)
            while batch := self._next_trials(study, method, space, trials):
                yield from self._train(study, space, stage, batch)
            if not (best := self._best(study, space)):  # all runs ended in an error
                return
            space = narrow(space, best)

    def outcomes(self) -> list[Outcome]:
        """What the trials that have ended have found, by method and stage."""
        found = []
        for method in self.search.methods:
            space: Space = self.search.space
            for number, stage in enumerate(self.search.stages, start=1):
                study = self._open(method, number, stage)
                ended = _complete(study.get_trials(deepcopy=False, states=tuple(STATES)), space)
                found += [self._outcome(method, number, stage, space, trial) for trial in ended]
                if not (best := self._best(study, space)):
                    break
                space = narrow(space, best)
        return found

    def _open(self, method: Method, number: int, stage: Stage) -> optuna.Study:
        pruner: BasePruner = NopPruner()
        if stage.rungs > 1:
            pruner = HyperbandPruner(max_resource=FACTOR ** (stage.rungs - 1), reduction_factor=FACTOR)
        study = optuna.create_study(
            storage=self._storage,
            study_name=f"{method} {number}",
            direction="maximize",
            pruner=pruner,
            load_if_exists=True,
        )
        study.set_user_attr("search", self.search.digest)
        return study

    def _next_trials(self, study: optuna.Study, method: Method, space: Space, trials: int) -> list[Trial]:
        """Continue the trials of a search that was stopped, or choose new ones; none if there are enough."""
        if running := _complete(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)), space):
            return [Trial(study, trial._trial_id) for trial in running]
        left = trials - len(_complete(study.get_trials(deepcopy=False, states=tuple(STATES)), space))
        batch = []
        for _ in range(min(left, self.search.batch) if method == "tpe" else left):
            study.sampler = self._sampler(method, len(study.get_trials(deepcopy=False)), trials)
            batch.append(study.ask(distributions(space)))
        return batch

    def _sampler(self, method: Method, number: int, trials: int) -> BaseSampler:
        """Make the sampler of one trial, seeded by its number, so that a stopped search continues as it would have.

        TPE begins with a quarter of the trials at random, the same ones as those of random search.
        """
        seed = (self.search.seed + number * 1_000_003) % 2**32
        return TPESampler(n_startup_trials=trials // 4, seed=seed) if method == "tpe" else RandomSampler(seed)

    def _train(self, study: optuna.Study, space: Space, stage: Stage, batch: list[Trial]) -> Iterator[list[Run]]:
        """Carry out trials, rung by rung, and tell Optuna what they have found."""
        for rung in range(stage.rungs):
            runs = {trial.number: self.search.run_of(point_of(trial, space), stage, rung) for trial in batch}
            yield [*runs.values()]
            results = collect(self.out, [*runs.values()]).results
            still = []
            for trial in batch:
                result = results[runs[trial.number].run_id]
                if not result.final:
                    study.tell(trial, state=TrialState.FAIL)
                    continue
                accuracy = result.test_accuracy or 0.0  # none if it diverged
                if FACTOR**rung not in study.trials[trial.number].intermediate_values:  # not before it was stopped
                    trial.report(accuracy, FACTOR**rung)
                if rung == stage.rungs - 1:
                    study.tell(trial, accuracy)
                elif trial.should_prune():
                    study.tell(trial, state=TrialState.PRUNED)
                else:
                    still.append(trial)
            batch = still

    def _best(self, study: optuna.Study, space: Space) -> list[dict[str, Any]]:
        """The points of the best trials; of those that were pruned only if no other has ended."""
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        ranked = sorted(ended, key=lambda trial: (trial.state != TrialState.COMPLETE, -_last(trial), trial.number))
        return [point_of(trial, space) for trial in ranked[: max(2, len(ranked) // BEST)]]

    def _outcome(self, method: Method, number: int, stage: Stage, space: Space, trial: FrozenTrial) -> Outcome:
        point, failed = point_of(trial, space), trial.state == TrialState.FAIL
        rungs = len(trial.intermediate_values) + failed
        runs = [self.search.run_of(point, stage, rung) for rung in range(rungs)]
        accuracy = None if failed else _last(trial)
        iterations = sum(run.iterations for run in runs)
        first = trial.intermediate_values.get(1)
        return Outcome(method, number, trial.number, point, STATES[trial.state], runs[-1], accuracy, first, iterations)


def _complete(trials: Iterable[FrozenTrial], space: Space) -> list[FrozenTrial]:
    """Leave out trials whose settings were not all chosen when the search was stopped."""
    return [trial for trial in trials if trial.params.keys() == space.keys()]


def point_of(trial: Trial | FrozenTrial, space: Space) -> dict[str, Any]:
    """The settings of a trial: ranges in few digits, as the runs have them."""
    return {
        name: readable(name, trial.params[name], values) if isinstance(values, Range) else trial.params[name]
        for name, values in space.items()
    }


def _last(trial: FrozenTrial) -> float:
    """The accuracy of the longest run of a trial."""
    return trial.intermediate_values[max(trial.intermediate_values)]


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """The space in Optuna's terms."""
    found: dict[str, BaseDistribution] = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution(values)
        elif is_whole(name):
            found[name] = IntDistribution(int(readable(name, values.low, values)), int(values.high), values.log)
        else:
            found[name] = FloatDistribution(values.low, values.high, values.log)
    return found

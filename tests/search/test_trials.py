"""A search over made-up accuracies: the trials of each method, pruning, stages, and searches that were stopped."""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from workers import ended, put

from replicate.errors import CUDA
from replicate.run import Run
from replicate.search.search import CarryOut, search
from replicate.search.space import Range
from replicate.search.spec import Search, Stage
from replicate.search.trials import Outcome, Trials, best_points, brackets, promising
from replicate.store.result import Result

RUN = {"init": "lsuv", "activation": "relu", "validation": 20, "iterations": 90, "milestones": (40, 60, 80)}
SPACE = {"lr": Range(0.001, 0.3, log=True), "momentum": Range(0.5, 0.99), "width": (0.0625, 0.125)}
SPEC = Search("small", RUN, SPACE, (Stage(12, 0.5, 2), Stage(8)), ("grid", "random", "tpe"), batch=4)


def accuracy(run: Run) -> float:
    """Best at lr = 0.03, momentum = 0.9, and width = 0.125; longer runs are better."""
    away = 20 * math.log10(run.lr / 0.03) ** 2 + 30 * (run.momentum - 0.9) ** 2 + 10 * (run.width < 0.1)
    return 90 - away + 5 * math.log10(run.iterations / 90)


def carrying_out(out: Path, calls: list[int] | None = None, stop_at: int | None = None) -> CarryOut:
    """Write the records of some runs. The call of that number stops after half of them."""
    made = [] if calls is None else calls

    def carry_out(runs: tuple[Run, ...], earlier: Collection[Result]) -> int:
        made.append(len(runs))
        stopped = len(made) - 1 == stop_at
        for run in runs[: len(runs) // 2] if stopped else runs:
            put(ended(run, "converged", accuracy(run)), out / "runs" / run.run_id)
        return 3 if stopped else 0

    return carry_out


def find(spec: Search, out: Path, carry_out: CarryOut) -> tuple[int, list[Outcome]]:
    code, trials = search(spec, out, carry_out, Console(quiet=True))
    return code, trials.outcomes


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    out = tmp_path_factory.mktemp("out")
    code, outcomes = find(SPEC, out, carrying_out(out))
    assert code == 0
    return outcomes


def of(outcomes: list[Outcome], method: str, stage: int) -> list[Outcome]:
    return [one for one in outcomes if (one.method, one.stage) == (method, stage)]


def test_hyperbands_brackets_by_hand() -> None:
    assert brackets(1) == [0]
    assert Counter(brackets(2)) == {0: 3, 1: 2}  # ⌈2/2 · 3⌉ and ⌈2/1 · 1⌉
    assert Counter(brackets(3)) == {0: 9, 1: 5, 2: 3}  # Li et al. 2018, table 1, for η = 3: 9, ⌈4.5⌉, 3
    assert Counter(brackets(5)) == {0: 81, 1: 34, 2: 15, 3: 8, 4: 5}  # the table itself
    assert Counter(brackets(3)[:6]) == {0: 3, 1: 2, 2: 1}


def test_the_best_third_is_promising() -> None:
    pool = [(-value, trial) for trial, value in enumerate([5, 1, 3, 4, 2, 6])]
    assert [promising(one, pool) for one in pool] == [True, False, False, False, False, True]
    assert promising((-1, 0), [(-1, 0)])
    assert not promising((0, 0), [(0, 0)])  # it has diverged
    equal = [(-10, trial) for trial in range(7)]
    assert [promising(one, equal) for one in equal] == [True] * 3 + [False] * 4


def test_each_method_has_its_trials(found: list[Outcome]) -> None:
    for method in ("random", "tpe"):
        assert [len(of(found, method, stage)) for stage in (1, 2)] == [12, 8]
    assert len(of(found, "grid", 1)) == 8  # 2 × 2 × 2
    assert {one.point["lr"] for one in of(found, "grid", 1)} == {0.001, 0.3}
    assert len({one.point["lr"] for one in of(found, "random", 1)}) == 12
    assert [one.trial for one in of(found, "tpe", 1)] == [*range(12)]
    random, tpe = ([one.point for one in of(found, method, 1)] for method in ("random", "tpe"))
    assert random[:4] == tpe[:4]  # TPE begins at random
    assert random[4:] != tpe[4:]
    places = [[SPACE["lr"].share(one.point["lr"]) for one in of(found, "random", stage)] for stage in (1, 2)]
    assert places[0][:8] != pytest.approx(places[1], abs=0.1)  # another stage has other random numbers


def test_outcomes_are_those_of_the_runs(found: list[Outcome]) -> None:
    for one in found:
        stage = SPEC.stages[one.stage - 1]
        first = brackets(stage.rungs)[one.trial % len(brackets(stage.rungs))]
        runs = [SPEC.run_of(one.point, stage, rung) for rung in range(first, stage.rungs)]
        if one.state == "pruned":
            runs = runs[:1]
        assert one.state == ("pruned" if len(runs) < stage.rungs - first else "complete")
        assert one.runs == tuple(runs)
        assert [*one.accuracies] == [*range(first, first + len(runs))]
        assert [*one.accuracies.values()] == pytest.approx([accuracy(run) for run in runs])
        assert one.accuracy == [*one.accuracies.values()][-1]
        assert one.iterations == sum(run.iterations for run in runs)


def test_hyperband_prunes_what_better_trials_have_beaten(found: list[Outcome]) -> None:
    for method in SPEC.methods:
        short = [one for one in of(found, method, 1) if 0 in one.accuracies]
        pruned = [one for one in short if one.state == "pruned"]
        assert 0 < len(pruned) < len(short)
        for one in pruned:
            assert any(other.accuracies[0] > one.accuracies[0] for other in short)
        best = max(short, key=lambda one: one.accuracies[0])
        assert best.state == "complete"
        assert {one.state for one in of(found, method, 2)} == {"complete"}


def test_the_fine_stage_searches_around_the_best_trials(found: list[Outcome]) -> None:
    for method in SPEC.methods:
        best = best_points(of(found, method, 1))
        assert len(best) == max(2, len(of(found, method, 1)) // 4)
        low, *_, high = sorted(SPACE["lr"].share(point["lr"]) for point in best)
        for one in of(found, method, 2):
            assert low - 0.11 <= SPACE["lr"].share(one.point["lr"]) <= high + 0.11
            assert one.point["width"] in {point["width"] for point in best}
            assert one.point["lr"] == float(f"{one.point['lr']:.3g}")


def test_a_search_comes_close_to_the_best_settings(found: list[Outcome]) -> None:
    best = {method: max(one.accuracy for one in of(found, method, 2)) for method in SPEC.methods}
    assert best["grid"] < min(best["random"], best["tpe"])
    assert max(best.values()) > 86


@pytest.mark.parametrize("stop_at", range(8))
def test_a_stopped_search_continues_as_it_would_have(found: list[Outcome], tmp_path: Path, stop_at: int) -> None:
    calls: list[int] = []
    code, some = find(SPEC, tmp_path, carrying_out(tmp_path, calls, stop_at))
    assert (code, len(calls)) == (3, stop_at + 1)
    assert all(one in found for one in some)
    assert find(SPEC, tmp_path, carrying_out(tmp_path)) == (0, found)
    assert find(SPEC, tmp_path, lambda *_: pytest.fail("nothing is left to do")) == (0, found)


def test_more_trials_keep_the_points_of_the_earlier_ones(tmp_path: Path) -> None:
    spec = replace(SPEC, methods=("random", "tpe"), stages=(Stage(8),))
    _, few = find(spec, tmp_path, carrying_out(tmp_path))
    calls: list[int] = []
    _, more = find(replace(spec, stages=(Stage(12),)), tmp_path, carrying_out(tmp_path, calls))
    points = {(one.method, one.trial): one.point for one in more}
    assert all(points[one.method, one.trial] == one.point for one in few)
    assert sum(calls) == 8


def carrying_out_with(out: Path, statuses: dict[int, str], passing: str | None = None) -> CarryOut:
    """Write records of which those of some numbers, counted over all calls, have another status."""
    numbers: list[str] = []

    def carry_out(runs: tuple[Run, ...], earlier: Collection[Result]) -> int:
        for run in runs:
            numbers.append(run.run_id)
            status = statuses.get(len(numbers) - 1, "converged")
            result = ended(run, status, accuracy(run) if status == "converged" else None)
            put(replace(result, passing=passing if status == "error" else None), out / "runs" / run.run_id)
        return 1

    return carry_out


def test_a_run_that_failed_fails_its_trial_and_a_diverged_one_is_the_worst(tmp_path: Path) -> None:
    spec = replace(SPEC, methods=("random",), stages=(Stage(4), Stage(2)))
    for _ in range(2):  # the failure is final: it would be repeated
        code, outcomes = find(spec, tmp_path, carrying_out_with(tmp_path, {0: "error", 1: "diverged"}))
        assert (code, [one.state for one in outcomes]) == (1, ["failed", *["complete"] * 5])
        assert [one.learned for one in outcomes] == [False, False, *[True] * 4]
        assert [one.accuracy for one in outcomes[:2]] == [None, 0.0]
        assert [one.iterations for one in outcomes[:2]] == [90, 90]
    code, outcomes = find(spec, tmp_path / "all", carrying_out_with(tmp_path / "all", dict.fromkeys(range(4), "error")))
    # Nothing has learned, so the second stage has nothing to search around.
    assert (code, [one.state for one in outcomes]) == (1, ["failed"] * 4 + ["complete"] * 2)
    assert any(not 0.001 < one.point["lr"] < 0.3 or one.stage == 2 for one in outcomes)


def test_a_passing_failure_is_repeated_by_the_next_call(tmp_path: Path) -> None:
    spec = replace(SPEC, methods=("random",), stages=(Stage(4), Stage(2)))
    code, outcomes = find(spec, tmp_path, carrying_out_with(tmp_path, {2: "error"}, CUDA))
    assert (code, outcomes) == (1, [])
    assert search(spec, tmp_path, lambda *_: 0, Console(quiet=True))[1].waiting  # the same record is still there
    calls: list[int] = []
    code, outcomes = find(spec, tmp_path, carrying_out(tmp_path, calls))
    assert (code, calls, {one.state for one in outcomes}) == (0, [1, 2], {"complete"})


def test_a_run_without_a_record_stops_the_search(tmp_path: Path) -> None:
    code, trials = search(SPEC, tmp_path, lambda *_: 0, Console(quiet=True))
    assert (code, trials.outcomes) == (3, [])
    assert isinstance(trials, Trials)


def test_the_next_stage_searches_around_trials_that_have_learned() -> None:
    def made(trial: int, accuracy: float, learned: bool) -> Outcome:
        return Outcome("random", 1, trial, {"lr": trial}, "complete", (), {0: accuracy}, learned)

    chance = [made(trial, 10.0, False) for trial in range(6)]
    assert best_points([*chance, made(6, 9.0, True), made(7, 50.0, True)]) == [{"lr": 7}, {"lr": 6}]
    assert best_points([*chance, made(6, 50.0, True)]) == []


def test_records_of_earlier_rounds_are_handed_on(tmp_path: Path) -> None:
    """So that those of other data can be refused."""
    spec = replace(SPEC, methods=("random",), stages=(Stage(4), Stage(2)))
    seen: list[set[str]] = []
    carry = carrying_out(tmp_path)

    def carry_out(runs: tuple[Run, ...], earlier: Collection[Result]) -> int:
        seen.append({result.run.run_id for result in earlier})
        return carry(runs, earlier)

    _, outcomes = find(spec, tmp_path, carry_out)
    assert seen == [set(), {one.runs[0].run_id for one in outcomes[:4]}]

"""A search over made-up accuracies: the trials of each method, pruning, stages, and searches that were stopped."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from workers import ended, put

from replicate.errors import UsageError
from replicate.run import Run
from replicate.search.search import search
from replicate.search.space import Range
from replicate.search.spec import Search, Stage
from replicate.search.study import Outcome

RUN = {"init": "lsuv", "activation": "relu", "validation": 20, "iterations": 90, "milestones": (40, 60, 80)}
SPACE = {"lr": Range(0.001, 0.3, log=True), "momentum": Range(0.5, 0.99), "width": (0.0625, 0.125)}
SPEC = Search("small", RUN, SPACE, (Stage(9, 0.5, 2), Stage(8)), ("grid", "random", "tpe"), batch=4)
CarryOut = Callable[[tuple[Run, ...]], int]


def accuracy(run: Run) -> float:
    """Best at lr = 0.03, momentum = 0.9, and width = 0.125; longer runs are better."""
    away = 20 * math.log10(run.lr / 0.03) ** 2 + 30 * (run.momentum - 0.9) ** 2 + 10 * (run.width < 0.1)
    return 90 - away + 5 * math.log10(run.iterations / 90)


def carrying_out(out: Path, calls: list[int] | None = None, stop_at: int | None = None) -> CarryOut:
    """Write the records of some runs. The call of that number stops after half of them."""
    made = [] if calls is None else calls

    def carry_out(runs: tuple[Run, ...]) -> int:
        made.append(len(runs))
        stopped = len(made) - 1 == stop_at
        for run in runs[: len(runs) // 2] if stopped else runs:
            put(ended(run, "converged", accuracy(run)), out / "runs" / run.run_id)
        return 3 if stopped else 0

    return carry_out


def find(spec: Search, out: Path, carry_out: CarryOut) -> tuple[int, list[Outcome]]:
    return search(spec, out, carry_out, Console(quiet=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    out = tmp_path_factory.mktemp("out")
    code, outcomes = find(SPEC, out, carrying_out(out))
    assert code == 0
    return outcomes


def of(outcomes: list[Outcome], method: str, stage: int) -> list[Outcome]:
    return [one for one in outcomes if (one.method, one.stage) == (method, stage)]


def test_each_method_has_its_trials(found: list[Outcome]) -> None:
    assert {(method, stage): len(of(found, method, stage)) for method in SPEC.methods for stage in (1, 2)} == {
        ("grid", 1): 8,  # 2 × 2 × 2
        ("grid", 2): len({tuple(one.point.values()) for one in of(found, "grid", 2)}),
        **{(method, stage): trials for method in ("random", "tpe") for stage, trials in ((1, 9), (2, 8))},
    }
    assert {one.point["lr"] for one in of(found, "grid", 1)} == {0.001, 0.3}
    assert len({one.point["lr"] for one in of(found, "random", 1)}) == 9
    points = ([one.point for one in of(found, method, 1)][:2] for method in ("random", "tpe"))
    assert len({str(each) for each in points}) == 1  # TPE begins with a quarter of the random trials


def test_outcomes_are_those_of_the_runs(found: list[Outcome]) -> None:
    for one in found:
        stage = SPEC.stages[one.stage - 1]
        runs = [SPEC.run_of(one.point, stage, rung) for rung in range(stage.rungs)]
        if one.state == "pruned":
            runs = runs[:1]
        assert (one.state, one.run) == ("pruned" if len(runs) < stage.rungs else "complete", runs[-1])
        assert one.accuracy == pytest.approx(accuracy(runs[-1]))
        assert one.first_accuracy == pytest.approx(accuracy(runs[0]))
        assert one.iterations == sum(run.iterations for run in runs)


def test_hyperband_prunes_only_what_an_earlier_trial_has_beaten(found: list[Outcome]) -> None:
    for method in SPEC.methods:
        trials = of(found, method, 1)
        pruned = [one for one in trials if one.state == "pruned"]
        assert 0 < len(pruned) < len(trials)
        for one in pruned:
            assert any(other.first_accuracy > one.first_accuracy for other in trials[: one.trial])
        assert {one.state for one in of(found, method, 2)} == {"complete"}


def test_the_fine_stage_searches_around_the_best_trials(found: list[Outcome]) -> None:
    for method in SPEC.methods:
        complete = [one for one in of(found, method, 1) if one.state == "complete"]
        best = sorted(complete, key=lambda one: -one.accuracy)[:2]
        low, high = (SPACE["lr"].share(each) for each in sorted(one.point["lr"] for one in best))
        for one in of(found, method, 2):
            assert low - 0.11 <= SPACE["lr"].share(one.point["lr"]) <= high + 0.11
            assert one.point["width"] in {each.point["width"] for each in best}


def test_tpe_and_random_search_come_closer_than_a_grid(found: list[Outcome]) -> None:
    best = {method: max(one.accuracy for one in of(found, method, 2)) for method in SPEC.methods}
    assert best["grid"] < best["random"] < best["tpe"]


@pytest.mark.parametrize("stop_at", [0, 1, 5])
def test_a_stopped_search_continues_as_it_would_have(found: list[Outcome], tmp_path: Path, stop_at: int) -> None:
    calls: list[int] = []
    code, some = find(SPEC, tmp_path, carrying_out(tmp_path, calls, stop_at))
    assert (code, len(calls)) == (3, stop_at + 1)
    assert all(one in found for one in some)
    assert find(SPEC, tmp_path, carrying_out(tmp_path)) == (0, found)
    assert find(SPEC, tmp_path, lambda runs: pytest.fail("nothing is left to do")) == (0, found)


def test_a_failed_run_fails_its_trial_and_a_diverged_one_is_the_worst(tmp_path: Path) -> None:
    spec = replace(SPEC, methods=("random",), stages=(Stage(4), Stage(2)))

    def carry_out(runs: tuple[Run, ...]) -> int:
        for number, run in enumerate(runs):
            status = ("error", "diverged", "converged", "converged")[number]
            put(ended(run, status, 50.0 if status == "converged" else None), tmp_path / "runs" / run.run_id)
        return 1

    code, outcomes = find(spec, tmp_path, carry_out)
    assert code == 1
    first = [(one.state, one.accuracy, one.iterations) for one in outcomes if one.stage == 1]
    assert first == [("failed", None, 90), ("complete", 0.0, 90), ("complete", 50.0, 90), ("complete", 50.0, 90)]

    def fail(runs: tuple[Run, ...]) -> int:
        for run in runs:
            put(ended(run, "error", None), tmp_path / "all" / "runs" / run.run_id)
        return 1

    (tmp_path / "all").mkdir()
    code, outcomes = find(spec, tmp_path / "all", fail)
    assert (code, {one.state for one in outcomes}, len(outcomes)) == (1, {"failed"}, 4)  # nothing to search around


def test_an_output_folder_belongs_to_one_search(tmp_path: Path) -> None:
    spec = replace(SPEC, methods=("random",), stages=(Stage(2),))
    find(spec, tmp_path, carrying_out(tmp_path))
    with pytest.raises(UsageError, match=r"search\.db belongs to a search with other settings; give another --out"):
        find(replace(spec, seed=1), tmp_path, carrying_out(tmp_path))

    def again(runs: tuple[Run, ...]) -> int:
        with pytest.raises(UsageError, match="another process searches in"):
            find(spec, tmp_path / "b", carrying_out(tmp_path))
        return 3

    (tmp_path / "b").mkdir()
    assert find(spec, tmp_path / "b", again)[0] == 3
    (tmp_path / "b" / "search.db").write_text("torn")
    with pytest.raises(UsageError, match=r"cannot read .*search\.db: .*; move the file elsewhere"):
        find(spec, tmp_path / "b", carrying_out(tmp_path))

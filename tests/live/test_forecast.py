"""Forecasts, by numbers worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from workers import record

from replicate.live.forecast import WINDOW_SECONDS, Pace, forecast
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result


def run(seed: int, activation: str = "relu") -> Run:
    return Run("lsuv", activation, seed, dataset="synthetic", iterations=100, milestones=(), batch_size=32)


def done(one: Run, seconds: float) -> Result:
    return replace(record(one, Options(Path())), seconds=seconds)


def test_a_run_under_way_goes_on_as_it_was_seen_to_go() -> None:
    runs = {str(seed): run(seed) for seed in range(2)}
    told = forecast(runs, {}, {"0": 60, "1": 20}, {"0": 2.0, "1": 4.0})
    assert told.each == {"0": 20.0, "1": 20.0}  # 40 / 2, 80 / 4
    assert told.whole == 20.0
    assert told.images_per_second == 32 * (2 + 4)


def test_those_waiting_start_where_a_run_ends_first() -> None:
    runs = {str(seed): run(seed) for seed in range(5)}
    told = forecast(runs, {"4": done(runs["4"], 50.0)}, {"0": 90, "1": 20}, {})
    # The record gives 0.5 s an iteration: 5 and 40 s are left, then 50 s each for two more: 5 + 50, and 40 + 50.
    assert told.each == {"0": 5.0, "1": 40.0}
    assert told.whole == 90.0
    assert told.images_per_second is None  # no speed was watched


def test_a_run_is_judged_by_runs_like_it_or_else_by_all() -> None:
    runs = {"relu": run(0), "maxout": run(0, "maxout"), "tanh": run(0, "tanh")}
    ended = {"relu": done(runs["relu"], 10.0), "maxout": done(runs["maxout"], 30.0)}
    more = {**runs, "next": run(1, "maxout")}
    assert forecast(more, ended, {"next": 0}, {}).each == {"next": 30.0}
    assert forecast(runs, ended, {"tanh": 50}, {}).each == {"tanh": 10.0}  # half of the mean of 10 and 30


def test_what_nothing_tells_is_not_guessed() -> None:
    runs = {str(seed): run(seed) for seed in range(3)}
    assert forecast(runs, {}, {"0": 10}, {}).whole is None
    assert forecast(runs, {}, {}, {}).whole is None
    diverged = replace(done(runs["1"], 100.0), status="diverged", test_accuracy=None, iteration=3)
    assert forecast(runs, {"1": diverged, "2": None}, {"0": 10}, {}).each == {}  # it says little of whole runs
    assert forecast(runs, {"1": done(runs["1"], 50.0)}, {}, {}).whole is None  # nobody works


def test_a_pace_is_that_of_the_last_while() -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    pace.told("a", 10)
    assert pace.rates == {}
    now[0] = 10
    pace.told("a", 60)
    assert pace.rates == {"a": 5.0}
    now[0] = 15
    pace.told("a", 60)  # an evaluation; the next look shows what it has cost
    assert pace.rates == {"a": 5.0}
    now[0] = 20
    pace.told("a", 70)
    assert pace.rates == {"a": 3.0}
    now[0] = 20 + WINDOW_SECONDS
    pace.told("a", 70 + 12)
    assert pace.rates == {"a": 22 / (10 + WINDOW_SECONDS)}  # since the last look before the window
    now[0] += 10
    pace.told("a", 82 + 20)
    assert pace.rates["a"] == pytest.approx(32 / (WINDOW_SECONDS + 10))
    pace.told("a", 5)
    assert pace.rates == {}  # begun anew
    pace.forget("a")
    pace.forget("never seen")

"""experiments/scale.py: the clock of the simulated fleet, and how close the real scheduler comes to the ideal."""

import pytest
from scale import simulate

from replicate.run import Run


def runs(activations: list[str], seeds: int = 1) -> list[Run]:
    return [Run("lsuv", one, seed, dataset="synthetic") for seed in range(seeds) for one in activations]


def test_the_clock_counts_rounds_and_the_schedulers_own_time() -> None:
    done = simulate(runs(["relu"], 20), slots=4, seconds=lambda run: 1000.0)
    assert (done.runs, done.slots, done.ideal) == (20, 4, 5000.0)
    assert 5000 < done.makespan <= 5000 + done.own + 1e-6  # five rounds, and never faster than the scheduler
    assert done.excess == pytest.approx(100 * (done.makespan / 5000 - 1))


def test_long_runs_at_the_end_do_not_leave_the_fleet_idle() -> None:
    # Four runs of 100 s, then one of 200 s, on two slots: in that order 400 s; the long one first: 300 s.
    many = [*runs(["relu"], 4), *runs(["maxout"])]
    done = simulate(many, slots=2, seconds=lambda run: 200.0 if run.activation == "maxout" else 100.0)
    assert done.ideal == 300
    assert done.makespan == pytest.approx(300, abs=1 + done.own)

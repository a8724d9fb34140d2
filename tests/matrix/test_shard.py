"""Shards: every run in one part, and parts of like cost."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.shard import shard
from replicate.run import Run

TABLE3 = Experiment.load(Path(__file__).parents[2] / "experiments" / "table3.yaml").runs()
CUT = [run for run in TABLE3 if run.seed < 3]  # all parts of a cut take time with the square of the number of runs
INITS, ACTIVATIONS = ("lsuv", "xavier", "msra"), ("maxout", "relu", "tanh")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, len(CUT)))
def test_every_run_is_in_one_part_and_the_parts_are_alike(parts: int) -> None:
    cut = [shard(f"{part}/{parts}", CUT) for part in range(1, parts + 1)]
    assert sorted(run.run_id for part in cut for run in part) == sorted(run.run_id for run in CUT)
    for classes in (
        lambda run: "any",
        lambda run: run.activation,
        lambda run: (run.activation, run.init),
    ):
        counts = [Counter(map(classes, part)) for part in cut]
        for name in set(map(classes, CUT)):
            assert max(count[name] for count in counts) - min(count[name] for count in counts) <= 1


def test_a_part_keeps_the_order_and_does_not_hang_on_it() -> None:
    part = shard("3/8", TABLE3)
    assert len(part) == 15  # 115 = 3 x 15 + 5 x 14
    assert [TABLE3.index(run) for run in part] == sorted(TABLE3.index(run) for run in part)
    assert set(shard("3/8", TABLE3[::-1])) == set(part)


def test_the_expansions_own_order_would_give_one_part_every_maxout() -> None:
    runs = [Run(init, activation) for init in INITS for activation in ACTIVATIONS]
    assert {run.activation for run in runs[::3]} == {"maxout"}
    for part in ("1/3", "2/3", "3/3"):
        assert Counter(run.activation for run in shard(part, runs)) == {"maxout": 1, "relu": 1, "tanh": 1}


def test_long_runs_are_dealt_out_by_themselves() -> None:
    short = [Run("lsuv", activation, seed) for activation in ACTIVATIONS for seed in range(2)]
    runs = short + [replace(run, iterations=100_000) for run in short]
    for part in ("1/2", "2/2"):
        chosen = Counter((run.iterations, run.activation) for run in shard(part, runs))
        assert set(chosen.values()) == {1}
        assert len(chosen) == 6


def test_the_parts_of_a_release_stay_what_they_are() -> None:
    # Machines that run different versions of this code must not cut the runs differently. By activation and
    # initialisation: 20 maxout, 25 relu (20 of them before xavier's), 25 sigmoid, 10 tanh before orthonormal's.
    assert [run.run_id.rpartition("-")[0] for run in shard("1/40", TABLE3)] == [
        "lsuv-maxout-s0", "orthonormal-tanh-s0", "xavier-relu-s0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0/8", "--shard 0/8 is out of range; give a part from 1/8 to 8/8"),
        ("9/8", "--shard 9/8 is out of range; give a part from 1/8 to 8/8"),
        ("1/0", "--shard 1/0 is out of range; give a part from 1/1 to 1/1"),
        ("two", "--shard 'two' is no part; give such as 2/8, the second of eight"),
        ("2/8/9", "--shard '2/8/9' is no part"),
        ("-1/8", "--shard '-1/8' is no part"),
        ("²/8", "is no part"),
        ("1/116", "--shard 1/116 cuts 115 runs into 116 parts; give 115 parts at most"),
    ],
)
def test_nonsense_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        shard(text, TABLE3)
    assert message in str(refused.value)

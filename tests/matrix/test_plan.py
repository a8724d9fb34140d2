"""The runs that are to be carried out, the records that prevent it, the parts, and the order."""

from collections import Counter
from dataclasses import replace
from io import StringIO
from operator import attrgetter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from workers import SYNTHETIC, ended, put

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.display import Display
from replicate.matrix.plan import Selected, check_shares, check_step, long_ones_first, shard_of, unfinished_runs
from replicate.options import Selection
from replicate.run import Run
from replicate.store.run_folder import RunFolder, collect

RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(4)]
HERE = {"synthetic": SYNTHETIC}
FILE = Path(__file__).parents[2] / "experiments" / "table3.yaml"
TABLE3 = Experiment.load(FILE).runs()
# Runs of two lengths; few, because making all parts takes time with the square of their number.
CUT = [replace(run, iterations=length) for run in TABLE3 if run.seed < 2 for length in (90_000, 100_000)]


@pytest.fixture
def display() -> Display:
    return Display(Console(file=StringIO(), width=500))


def test_runs_without_a_result_are_unfinished(tmp_path: Path, display: Display) -> None:
    failed = replace(ended(RUNS[2], "error"), fingerprint="unknown")
    results = (ended(RUNS[0]), ended(RUNS[1], "diverged"), failed, ended(RUNS[3]))
    paths = [put(result, RunFolder.of(tmp_path, result.run).path) for result in results]
    paths[3].write_text("{")
    assert collect(tmp_path, RUNS[:1]).others == 3
    assert unfinished_runs(tmp_path, RUNS, HERE, display) == RUNS[2:]
    assert unfinished_runs(tmp_path, RUNS, HERE, display, {RUNS[2].run_id: failed}) == RUNS[2:]
    for other in ({}, {RUNS[2].run_id: replace(failed, error="an earlier one")}):
        assert unfinished_runs(tmp_path, RUNS, HERE, display, other) == [RUNS[3]]
    assert f"{paths[3]}: not a whole result" in display._console.file.getvalue()
    assert paths[3].read_text() == "{"  # another command may be about to replace it: only its owner sets it aside
    with pytest.raises(UsageError, match=f"{RUNS[0].run_id}.*{SYNTHETIC}.*{'0' * 64}"):
        unfinished_runs(tmp_path, RUNS, {"synthetic": "0" * 64}, display)


def test_more_seeds_are_not_added_to_chosen_ones() -> None:
    assert Selected.load(FILE, Selection(only=("init=lsuv",))).experiment.table.more_seeds == tuple(range(5, 30))
    for chosen in (Selection(only=("seed=0,1",)), Selection(set=("seed=0-2",))):
        assert Selected.load(FILE, chosen).experiment.table.more_seeds == ()


def test_a_run_that_has_too_few_images_for_its_devices_is_refused() -> None:
    run = Run("lsuv", "relu", dataset="synthetic", batch_size=4)
    check_shares([run], {"synthetic": 500}, 4)
    with pytest.raises(UsageError, match=f"--devices-per-run 5 .*{run.run_id} has 4 images a batch; give 1 to 4"):
        check_shares([RUNS[0], run], {"synthetic": 500}, 5)
    with pytest.raises(UsageError, match=r"has 2 images to test on; give 1 to 2"):
        check_shares([replace(run, validation=2)], {"synthetic": 500}, 4)


def test_batch_normalisation_needs_whole_batches() -> None:
    run = replace(RUNS[0], model="fitnet4_bn_after")
    check_shares([run], {}, 1)
    with pytest.raises(UsageError, match="--devices-per-run 2 divides batches, but fitnet4_bn_after normalises whole"):
        check_shares([run], {}, 2)


def test_a_graph_is_refused_where_the_optimiser_has_none() -> None:
    adam = replace(RUNS[0], optimizer="adam")
    check_step([*RUNS, adam], "auto")
    check_step(RUNS, "graph")
    with pytest.raises(UsageError, match=f"is for the optimiser sgd, and {adam.run_id} has adam; choose"):
        check_step([*RUNS, adam], "graph")


def test_long_runs_go_first_in_the_last_rounds_only() -> None:
    pairs = [(Run("lsuv", "relu", seed), Run("lsuv", "maxout", seed)) for seed in range(10)]
    runs = [run for pair in pairs for run in pair]
    order = long_ones_first(runs, 4)  # 2 rounds of 4
    assert order[:12] == runs[:12]
    assert order[12:] == [long for _, long in pairs[6:]] + [short for short, _ in pairs[6:]]
    longer = replace(runs[0], iterations=900_000)
    assert long_ones_first([*runs[:2], longer], 2)[0] == longer


@settings(max_examples=20, deadline=None)
@given(st.integers(1, len(CUT)))
def test_every_run_is_in_one_part_and_the_parts_are_alike(parts: int) -> None:
    cut = [shard_of(f"{part}/{parts}", CUT) for part in range(1, parts + 1)]
    assert sorted(run.run_id for part in cut for run in part) == sorted(run.run_id for run in CUT)
    for fields in (("dataset",), ("iterations", "activation"), ("iterations", "activation", "init")):
        kind = attrgetter(*fields)
        counts = [Counter(map(kind, part)) for part in cut]
        for name in set(map(kind, CUT)):
            assert max(count[name] for count in counts) - min(count[name] for count in counts) <= 1


def test_a_part_keeps_the_order_of_the_runs_does_not_depend_on_it_and_stays_the_same_in_every_version() -> None:
    part = shard_of("3/8", TABLE3)
    assert [TABLE3.index(run) for run in part] == sorted(TABLE3.index(run) for run in part)
    assert set(shard_of("3/8", TABLE3[::-1])) == set(part)
    # Machines that run different versions of this code must not cut the runs differently. By activation and
    # initialisation: 20 maxout, 25 relu (20 of them before xavier's), 25 sigmoid, 10 tanh before orthonormal's.
    names = [run.run_id.rpartition("-")[0] for run in shard_of("1/40", TABLE3)]
    assert names == ["lsuv-maxout-s0", "orthonormal-tanh-s0", "xavier-relu-s0"]


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/116", "2/8/9", "²/8"])
def test_impossible_parts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"--shard '?{text}"):
        shard_of(text, TABLE3)

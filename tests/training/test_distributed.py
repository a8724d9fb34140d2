"""Several processes train one run: with the same numbers as one process, and all end when one does."""

import multiprocessing as mp
import os
import shutil
import signal
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import distributed_rank
import psutil
import pytest
import torch
import torch.distributed as dist
from runs import train_run
from torch.distributed import TCPStore
from training.fitting import KeptLosses, fit
from training.test_agreement import ITERATIONS, RUN, data, net

from replicate.cli import main
from replicate.errors import RankFailedError, transient_kind
from replicate.options import Options
from replicate.run import Run
from replicate.store.measurements import read_layers
from replicate.store.run_folder import RunFolder
from replicate.training import distributed
from replicate.training.logger import Progress
from replicate.training.module import Classifier, Eager


@pytest.fixture(scope="module")
def context() -> Any:
    made = mp.get_context("forkserver")
    made.set_forkserver_preload(["distributed_rank", "replicate.training.train"])
    return made


def test_the_losses_of_all_iterations_are_those_of_one_process(context: Any, tmp_path: Path) -> None:
    size = 3  # parts of 6, 5 and 5 images
    store = TCPStore(distributed.HOST, 0, size, is_master=True, wait_for_workers=False)
    place = (size, store.port, tmp_path)
    ranks = [context.Process(target=distributed_rank.train, args=(rank, *place), daemon=True) for rank in range(size)]
    for rank in ranks:
        rank.start()
    model = Classifier(net("vlrelu", dropout=0.0), replace(RUN, clip_norm=3.0, ema=0.9), steps=KeptLosses(Eager()))
    fit(model, data())
    for rank in ranks:
        rank.join(240)
        assert rank.exitcode == 0
    first, *others = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(size))
    assert len(first["losses"]) == ITERATIONS
    assert first["losses"] == pytest.approx(model.steps.losses, rel=1e-9)
    assert first["test"] == pytest.approx(model.take("val"), rel=1e-9)
    assert first["predicted"] == model.predictions()[0].tolist()
    assert all(rank == first for rank in others), "the ranks differ in bits"


@pytest.fixture
def run(tiny: Run) -> Run:
    return replace(tiny, batch_size=100, iterations=9, milestones=[5], dropout=0.2)


@pytest.fixture
def forked(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start from a process that has loaded torch; those of a matrix, below, start as they always do."""
    monkeypatch.setattr(distributed, "METHOD", "forkserver")
    monkeypatch.setattr("replicate.training.measurements.PROGRESS_SECONDS", 0.0)


def send_to_rank_1(number: int) -> Progress:
    left = [number]

    def progress(iteration: int, accuracy: float | None, stage: str = "") -> None:
        if left and not stage:
            (one,) = mp.active_children()
            os.kill(one.pid or 0, left.pop())

    return progress


@pytest.mark.usefixtures("forked")
def test_a_signal_to_any_rank_stops_all_and_the_run_continues_in_the_same_bits(
    run: Run, options: Options, tmp_path: Path
) -> None:
    single = train_run(run, replace(options, out=tmp_path / "single"))
    options = replace(options, devices_per_run=2)
    whole = train_run(run, options)
    assert whole.error is None
    assert whole.init == single.init
    assert (whole.options["devices_per_run"], whole.environment["processes"]) == (2, 2)
    cut = replace(options, out=tmp_path / "cut")
    assert train_run(run, cut, send_to_rank_1(signal.SIGTERM)) is None
    one, first, second = (RunFolder.of(out, run) for out in (tmp_path / "single", options.out, cut.out))
    # Variances, gradients and singular values after the initialisation
    assert read_layers(one, single.fingerprint)[0] == read_layers(first, whole.fingerprint)[0]
    saved = torch.load(second.checkpoint, weights_only=True)
    assert saved["iteration"] in (4, 8)
    masks = [rank["generators"]["cpu"] for rank in saved["ranks"]]
    assert not torch.equal(*masks)  # the ranks drop different units
    shutil.copytree(cut.out, tmp_path / "fewer")
    resumed = train_run(run, cut)
    assert resumed.weights_sha256 == whole.weights_sha256
    for name in ("curve.csv", "predictions.npz"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    fewer = train_run(run, replace(cut, out=tmp_path / "fewer", devices_per_run=1))
    assert (fewer.error, fewer.iteration) == (None, 9)
    assert not mp.active_children()


@pytest.mark.usefixtures("forked")
def test_a_rank_that_dies_ends_the_run_with_its_name(run: Run, options: Options) -> None:
    result = train_run(run, replace(options, devices_per_run=2), send_to_rank_1(signal.SIGKILL))
    assert (result.status, result.passing) == ("error", "killed")
    assert "rank 1 of 2 died: killed by SIGKILL" in str(result.error)
    assert not mp.active_children()


@pytest.mark.usefixtures("forked")
def test_a_rank_that_fails_is_the_reason_with_its_traceback(run: Run, options: Options) -> None:
    with (
        pytest.raises(
            RankFailedError, match=r"rank [12] of 3 failed:\nTraceback[\s\S]*no space left on device"
        ) as caught,
        distributed.launch_ranks(run, replace(options, devices_per_run=3), distributed_rank.fail) as group,
    ):
        group.all_reduce(torch.ones(1))
    assert transient_kind(caught.value) == "disk"
    assert not mp.active_children()
    assert not dist.is_initialized()


def test_the_others_end_when_rank_0_is_killed(context: Any, run: Run, options: Options) -> None:
    options.out.mkdir()
    first = context.Process(target=distributed_rank.hang, args=(run, replace(options, devices_per_run=2), "wait"))
    first.start()
    try:
        while not (note := options.out / "waiting").exists():
            assert first.is_alive()
            time.sleep(0.05)
        other = psutil.Process(int(note.read_text()))
    finally:
        first.kill()
        first.join()
    other.wait(30)


def test_rank_0_is_killed_if_it_does_not_notice(context: Any, run: Run, options: Options) -> None:
    first = context.Process(target=distributed_rank.hang, args=(run, replace(options, devices_per_run=2), "fail"))
    first.start()
    first.join(60)
    exit_code = first.exitcode
    first.kill()  # or a failure of this test would wait for it
    assert exit_code == -signal.SIGKILL


def test_processes_that_cannot_connect_say_so(run: Run, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "HOST", "192.0.2.1")  # an address of documentation, which nobody has
    monkeypatch.setattr(distributed, "CONNECT_TIMEOUT", timedelta(seconds=1))
    result = train_run(run, replace(options, devices_per_run=2))
    assert result.status == "error"
    assert "the processes of the run cannot connect to each other at 192.0.2.1: " in result.error.splitlines()[-1]


def test_a_matrix_of_such_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")  # set for runs on several machines
    file = tmp_path / "several.yaml"
    file.write_text(
        "name: several\ngrid: {init: [xavier], activation: [relu]}\n"
        "run: {dataset: synthetic, width: 0.125, batch_size: 7, iterations: 2, precision: 32-true, milestones: []}"
    )
    words = ["matrix", str(file), "--wandb", "off", "--devices", "cpu", "--devices-per-run", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0


def test_more_ranks_than_images_are_refused() -> None:
    with pytest.raises(ValueError, match="17 processes cannot share batches of 16 and 10 test images"):
        data().shard(0, 17)

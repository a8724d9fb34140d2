"""Several processes train one run: the same numbers as one process, and all end when one does."""

import json
import multiprocessing as mp
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import distributed_rank
import psutil
import pytest
import torch
import torch.distributed as dist
from runs import train_run
from torch.distributed import TCPStore
from training.test_agreement import ITERATIONS, RUN, KeptLosses, data, net

from replicate.cli import main
from replicate.errors import RankFailedError, transient_kind
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.training import distributed
from replicate.training.distributed import ProcessGroup
from replicate.training.module import Classifier, Eager

Started = Callable[..., Callable[[], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def context() -> Any:
    made = mp.get_context("forkserver")
    made.set_forkserver_preload(["distributed_rank", "replicate.training.train"])
    return made


@pytest.fixture
def start(context: Any, tmp_path: Path) -> Started:
    """Starts ranks of `distributed_rank.train`; what it returns waits for them and gives what each has found."""

    def started(size: int, **change: Any) -> Callable[[], list[dict[str, Any]]]:
        out = tmp_path / f"{size}-{len(change)}"
        out.mkdir()
        store = TCPStore(distributed.HOST, 0, size, is_master=True, wait_for_workers=False)
        place = (size, store.port, out, change)
        ranks = [
            context.Process(target=distributed_rank.train, args=(rank, *place), daemon=True) for rank in range(size)
        ]
        for rank in ranks:
            rank.start()

        def found() -> list[dict[str, Any]]:
            for rank in ranks:
                rank.join(240)
                assert rank.exitcode == 0, store
            return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(size)]

        return found

    return started


def test_the_losses_of_fifty_iterations_are_those_of_one_process(start: Started, tmp_path: Path) -> None:
    made = net("vlrelu", "cpu", torch.float64)
    torch.save(made.state_dict(), tmp_path / "start.pt")
    right = start(3)  # parts of 6, 5 and 5 images
    wrong = start(3, share=1 / 3)  # a mean of means
    kept = KeptLosses(Eager())
    model = Classifier(made, replace(RUN, clip_norm=3.0), steps=kept)
    batches = data("cpu", torch.float64, 7)
    distributed_rank.fit(model, batches, tmp_path)
    assert len(kept.losses) == ITERATIONS
    evaluated, predicted = model.take("val"), model.predictions().tolist()
    found = right()
    assert found[0]["losses"] == pytest.approx(kept.losses, rel=1e-9)
    assert found[0]["test"] == pytest.approx(evaluated, rel=1e-9)
    assert found[0]["predicted"] == predicted
    assert all(rank == found[0] for rank in found), "the ranks differ in bits"
    assert wrong()[0]["losses"] != pytest.approx(kept.losses, rel=1e-9)


@pytest.fixture
def run(tiny: Run) -> Run:
    return replace(tiny, batch_size=300, iterations=17, milestones=[5, 11], dropout=0.2)


@pytest.fixture
def forked(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start from a process that has torch loaded; those of a matrix, below, start as they do."""
    monkeypatch.setattr(distributed, "METHOD", "forkserver")
    monkeypatch.setattr("replicate.training.curve.PROGRESS_SECONDS", 0.0)


def send_to_rank_1(number: int) -> Callable[[int, float | None], None]:
    left = [number]

    def progress(iteration: int, accuracy: float | None) -> None:
        if left:
            (one,) = mp.active_children()
            os.kill(one.pid or 0, left.pop())

    return progress


@pytest.mark.usefixtures("forked")
def test_a_signal_to_any_rank_stops_all_and_the_run_goes_on_in_the_same_bits(
    run: Run, options: Options, tmp_path: Path
) -> None:
    options = replace(options, devices_per_run=2)
    whole = train_run(run, options)
    assert isinstance(whole, Result)
    assert whole.error is None
    elsewhere = replace(options, out=tmp_path / "cut")
    folder = elsewhere.out / "runs" / run.run_id
    assert train_run(run, elsewhere, send_to_rank_1(signal.SIGTERM)) is None
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert saved["iteration"] in (4, 7)
    first, second = (rank["generators"]["cpu"] for rank in saved["ranks"])
    assert not torch.equal(first, second)  # the ranks drop different units
    again = train_run(run, elsewhere)
    assert isinstance(again, Result)
    assert again.weights_sha256 == whole.weights_sha256
    for name in ("curve.csv", "predictions.npz"):
        assert (folder / name).read_bytes() == (options.out / "runs" / run.run_id / name).read_bytes()
    assert (whole.options["devices_per_run"], whole.environment["processes"]) == (2, 2)
    assert not mp.active_children()


@pytest.mark.usefixtures("forked")
def test_a_rank_that_dies_ends_the_run_with_its_name(run: Run, options: Options) -> None:
    result = train_run(run, replace(options, devices_per_run=2), send_to_rank_1(signal.SIGKILL))
    assert isinstance(result, Result)
    assert (result.status, result.passing) == ("error", "killed")
    assert "rank 1 of 2 died: killed by SIGKILL" in str(result.error)
    assert not mp.active_children()


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("size", "function", "said", "kind"),
    [
        (2, distributed_rank.fail, r"rank 1 of 2 failed:\nTraceback[\s\S]*no space left on device", "disk"),
        (3, distributed_rank.kill_the_last, "rank 2 of 3 died: killed by SIGKILL", "killed"),
    ],
)
def test_what_ends_a_rank_is_the_reason(
    run: Run, options: Options, size: int, function: distributed.Function, said: str, kind: str
) -> None:
    with (
        pytest.raises(RankFailedError, match=said) as caught,
        distributed.launch_ranks(run, replace(options, devices_per_run=size), function) as group,
    ):
        group.all_reduce(torch.ones(1))
    assert transient_kind(caught.value) == kind
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


def test_a_matrix_of_such_runs_starts_from_the_same_bits(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    file.write_text(
        "name: several\ngrid: {init: [lsuv, xavier], activation: [maxout]}\n"
        "run: {dataset: synthetic, width: 0.125, batch_size: 7, iterations: 5, precision: 32-true, milestones: [3]}"
    )
    words = ["matrix", str(file), "--wandb", "off", "--devices", "cpu", "--out"]
    assert main([*words, str(tmp_path / "several"), "--devices-per-run", "2", "--per-device", "2"]) == 0
    assert main([*words, str(tmp_path / "one")]) == 0
    folders = sorted((tmp_path / "several" / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        alone = tmp_path / "one" / "runs" / folder.name
        theirs, ours = (json.loads((one / "result.json").read_text()) for one in (alone, folder))
        assert theirs["init"] == ours["init"]
        theirs, ours = (json.loads((one / "layers.json").read_text())["moments"] for one in (alone, folder))
        assert theirs[0] == ours[0]  # variances, gradients and singular values of what was initialised


@pytest.mark.parametrize("sizes", [(43, 43, 42), (64, 64)])
def test_the_shares_are_those_of_the_batches(sizes: tuple[int, ...]) -> None:
    assert [ProcessGroup(rank, len(sizes), 128).share * 128 for rank in range(len(sizes))] == list(sizes)
    assert [len(part) for part in torch.arange(128).tensor_split(len(sizes))] == list(sizes)


def test_what_the_ranks_predict_is_put_in_the_order_of_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data("cpu", torch.float64, 7)
    parts = []
    for rank in range(3):  # 10 test images: 4, 3 and 3
        part = data("cpu", torch.float64, 7)
        part.shard(rank, 3)
        parts.append(part.test_labels)
    monkeypatch.setattr(ProcessGroup, "gather", lambda self, own: [{"part": part} for part in parts])
    assert torch.equal(ProcessGroup(0, 3, 16).interleave(parts[0]), whole.test_labels)
    assert len(set(whole.test_labels.tolist())) > 3


def test_more_ranks_than_images_are_refused() -> None:
    batches = data("cpu", torch.float64, 7)
    with pytest.raises(ValueError, match="17 processes cannot share batches of 16 and 10 test images"):
        batches.shard(0, 17)

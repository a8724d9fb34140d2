"""A run that is cut off anywhere and started again ends in the same bits."""

import contextlib
import errno
import hashlib
import io
import math
import random
import shutil
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from runs import stop_at, train_run

from replicate.data import load
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder
from replicate.training import checkpoint
from replicate.training.checkpoint import SIGNALS
from replicate.training.checkpoint_state import check_state

# 100 images in batches of 15: the rows of the curve are at iterations 7, 14 and 17.
ITERATIONS = 17


@pytest.fixture
def run(tiny: Run) -> Run:
    drawn = {"dropout": 0.2, "zoom": 0.3}
    return replace(tiny, init="xavier", batch_size=15, iterations=ITERATIONS, milestones=[5, 11], ema=0.9, **drawn)


@pytest.fixture(autouse=True)
def progress_at_every_iteration(monkeypatch: pytest.MonkeyPatch, few_images: None, early: int) -> None:
    monkeypatch.setattr("replicate.training.measurements.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})


def check_same(run: Run, options: Options, whole: Result, other: Options, resumed: Result) -> None:
    """Compare a resumed run with one that was never stopped."""
    assert resumed.error is None
    for name in ("weights_sha256", "init", "test_accuracy", "train_loss", "iteration"):
        assert getattr(resumed, name) == getattr(whole, name)
    for name in ("curve.csv", "layers.json", "predictions.npz"):
        first, second = (RunFolder.of(one.out, run).path / name for one in (options, other))
        assert first.read_bytes() == second.read_bytes()


def test_cut_anywhere_it_ends_in_the_same_bits(run: Run, options: Options, tmp_path: Path) -> None:
    handlers = {one: signal.getsignal(one) for one in SIGNALS}
    whole = train_run(run, options)
    for cut in (1, 6, 7, 16):  # before a row, at a snapshot, at a row, after the last milestone
        other = replace(options, out=tmp_path / f"cut-{cut}")
        assert train_run(run, other, stop_at(cut)) is None
        folder = RunFolder.of(other.out, run)
        assert not (folder.path / "result.json").exists()
        saved = torch.load(folder.checkpoint, weights_only=True)
        assert saved["iteration"] == cut
        torch.manual_seed(99)  # another process, another past
        resumed = train_run(run, other)
        check_same(run, options, whole, other, resumed)
        assert resumed.seconds > saved["record"]["seconds"] > 0
        assert not folder.checkpoint.exists()
    assert {one: signal.getsignal(one) for one in SIGNALS} == handlers


@pytest.mark.parametrize("steps", [("graph", "eager"), ("eager", "graph")])
def test_sgd_without_momentum_continues_on_either_path(
    steps: tuple[str, str], run: Run, options: Options, tmp_path: Path
) -> None:
    """A graph makes buffers of the momentum, which are not used."""
    run = replace(run, momentum=0.0)
    first, second = (replace(options, out=tmp_path / "cut", step=step) for step in steps)
    assert train_run(run, first, stop_at(9)) is None
    check_same(run, options, train_run(run, options), second, train_run(run, second))
    assert not list(RunFolder.of(second.out, run).path.glob("*.set-aside-*"))


def test_the_running_statistics_of_batch_normalisation_are_continued(
    run: Run, options: Options, tmp_path: Path
) -> None:
    run = replace(run, model="fitnet4_bn_before", activation="relu")
    whole = train_run(run, options)
    other = replace(options, out=tmp_path / "cut", step="graph")  # whose trial iterations leave no trace in them
    assert train_run(run, other, stop_at(6)) is None
    check_same(run, options, whole, other, train_run(run, other))


@pytest.mark.parametrize("optimizer", ["nesterov", "rmsprop", "adam"])
def test_the_state_of_other_optimisers_is_continued(optimizer: str, run: Run, options: Options, tmp_path: Path) -> None:
    run = replace(run, optimizer=optimizer, momentum=0.0 if optimizer == "rmsprop" else 0.9, lr=1e-3)
    whole = train_run(run, options)
    other = replace(options, out=tmp_path / "cut")
    assert train_run(run, other, stop_at(6)) is None
    state, data = torch.load(RunFolder.of(other.out, run).checkpoint, weights_only=True), load("synthetic", tmp_path)
    check_same(run, options, whole, other, train_run(run, other))
    name = {"nesterov": "momentum_buffer", "rmsprop": "square_avg", "adam": "exp_avg_sq"}[optimizer]
    with pytest.raises(ValueError, match=f"buffers of the optimiser .*{name}"):
        check_state(changed(state, ("optimizer", "state", 3, name), torch.zeros(1)), run, data)
    if optimizer != "nesterov":
        with pytest.raises(ValueError, match="steps of the optimiser"):
            check_state(changed(state, ("optimizer", "state", 3, "step"), torch.tensor(5.0)), run, data)


def test_cut_again_and_again(run: Run, options: Options, tmp_path: Path) -> None:
    run = replace(run, init="lsuv")  # which draws from other streams of random numbers than the training
    whole = train_run(run, options)
    # A graph has buffers of its own, which the restored state must reach.
    other = replace(options, out=tmp_path / "often", step="graph")
    path = RunFolder.of(other.out, run).checkpoint
    for cut, number in ((3, signal.SIGUSR1), (9, signal.SIGUSR2), (15, signal.SIGTERM)):
        assert train_run(run, other, stop_at(cut, number)) is None
        state = torch.load(path, weights_only=True)
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = True  # as on a GPU, where a step rounds in another way; the resuming process decides
        path.write_bytes(checkpoint.pack(state))
    check_same(run, options, whole, other, train_run(run, other))


def test_a_kill_loses_only_what_came_after_the_checkpoint(run: Run, options: Options, tmp_path: Path) -> None:
    whole = train_run(run, options)
    other = replace(options, out=tmp_path / "killed", checkpoint_seconds=0.0)
    path = RunFolder.of(other.out, run).checkpoint

    def progress(iteration: int, *_: object) -> None:
        if iteration == 5:
            shutil.copy(path, tmp_path / "early.pt")
        if iteration == 10:
            raise RuntimeError("in place of kill -9: nothing is saved on the way out")

    assert train_run(run, other, progress).status == "error"
    assert torch.load(path, weights_only=True)["iteration"] == 9
    shutil.copy(tmp_path / "early.pt", path)  # the snapshot at 6 and the row at 7 are on the disk, but not in this one
    check_same(run, options, whole, other, train_run(run, other))


class Evil:
    """Runs code when it is unpickled."""

    executed = False

    def __reduce__(self):
        return (setattr, (Evil, "executed", True))


def bomb() -> bytes:
    """A file whose entries expand to a thousand times their size."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no checkpoint", "its checksum is wrong"), (bomb(), "expand to more than its size")]
)
def test_a_file_that_is_no_checkpoint_is_set_aside(
    run: Run, options: Options, content: bytes, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = replace(run, iterations=2, milestones=[])
    path = RunFolder.of(options.out, run).checkpoint
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    result = train_run(run, options)
    assert result.error is None
    assert path.with_name("checkpoint.pt.set-aside-1").read_bytes() == content
    (said,) = result.set_aside
    assert said.startswith("checkpoint.pt.set-aside-1: ")
    assert reason in said
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"identity": "another"}, {"schema": 1}, {"identity": Evil()}])
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, change: dict) -> None:
    folder = RunFolder(tmp_path)
    mine = {"schema": checkpoint.SCHEMA, "identity": f"{folder.run_id} 3f3f"}
    folder.checkpoint.write_bytes(checkpoint.pack(mine))
    assert checkpoint.read(folder, "3f3f", "cpu") == mine
    folder.checkpoint.write_bytes(checkpoint.pack({**mine, **change}))
    with pytest.raises(Exception, match=r"it is not of schema|Weights only load failed"):
        checkpoint.read(folder, "3f3f", "cpu")
    assert not Evil.executed


@pytest.fixture
def stopped(run: Run, options: Options) -> Path:
    """The checkpoint of a run that was stopped after 9 iterations, with a row and a snapshot."""
    assert train_run(run, options, stop_at(9)) is None
    return RunFolder.of(options.out, run).checkpoint


def test_a_single_bit_that_flips_is_noticed(tmp_path: Path) -> None:
    """Also one of those that torch obeys, such as the mark of a folder, whose content it does not read."""
    folder = RunFolder(tmp_path)
    content = checkpoint.pack({"schema": checkpoint.SCHEMA, "identity": f"{folder.run_id} 3f3f", "w": torch.ones(3)})
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        folder.checkpoint.write_bytes(flipped)
        with pytest.raises(ValueError, match="its checksum is wrong"):
            checkpoint.read(folder, "3f3f", "cpu")


def test_a_damaged_checkpoint_starts_the_run_anew(run: Run, options: Options, stopped: Path, tmp_path: Path) -> None:
    whole = train_run(run, other := replace(options, out=tmp_path / "whole"))
    content = bytearray(stopped.read_bytes())
    weight = torch.load(stopped, weights_only=True)["module"]["net.fc1.weight"].numpy().tobytes()
    content[content.index(weight) + 3] ^= 1
    stopped.write_bytes(content)
    again = train_run(run, options, stop_at(12))  # what was set aside is still known after another stop
    assert again is None
    resumed = train_run(run, options)
    check_same(run, other, whole, options, resumed)
    assert "its checksum is wrong" in "".join(resumed.set_aside)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), OSError(errno.EIO, "Input/output error")]
)
def test_a_checkpoint_that_cannot_be_read_now_is_kept(
    run: Run, options: Options, stopped: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    content = stopped.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "read", Mock(side_effect=error))
        assert train_run(run, options).status == "error"
    assert stopped.read_bytes() == content
    assert train_run(run, options).set_aside is None


def places(state: object) -> Iterator[tuple[object, ...]]:
    """The place of every value in plain data, as the keys that lead to it."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    for key, value in items:
        yield (key,)
        yield from ((key, *place) for place in places(value))


OTHERS = (None, -5, 10**9, 10**400, math.nan, "x", [], {}, (), torch.zeros(0), torch.zeros(3, dtype=torch.bool))


def changed(state: Any, place: tuple[Any, ...], value: object) -> Any:
    """A copy of plain data with another value at one place."""
    key, *rest = place
    items = dict(state) if isinstance(state, dict) else list(state)
    items[key] = changed(items[key], tuple(rest), value) if rest else value
    return tuple(items) if isinstance(state, tuple) else items


def test_a_state_that_passes_the_check_can_be_resumed_from(run: Run, options: Options, stopped: Path) -> None:
    """Every value of a state is replaced by others of other types, shapes and sizes."""
    state, data = torch.load(stopped, weights_only=True), load("synthetic", options.data_dir)
    check_state(state, run, data)
    rng, accepted = random.Random(0), []
    for place in rng.sample([*places(state)], 200):
        other = changed(state, place, rng.choice(OTHERS))
        with contextlib.suppress(ValueError, KeyError, TypeError, RuntimeError):
            check_state(other, run, data)
            accepted.append((place, other))
    assert 10 < len(accepted) < 100
    for place, other in rng.sample(accepted, 6):
        stopped.write_bytes(checkpoint.pack(other))
        assert train_run(run, options).error is None, place

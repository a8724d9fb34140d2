"""A run that is cut off anywhere and started again ends in the same bits."""

import os
import signal
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import train_run

from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder
from replicate.training import checkpoint, train
from replicate.training.checkpoint import SIGNALS
from replicate.training.module import Classifier

pytestmark = pytest.mark.usefixtures("few_images")

# 100 images in batches of 15: the rows of the curve are at iterations 7, 14 and 17, which no chunk divides.
ITERATIONS, ROWS = 17, (7, 14)


@pytest.fixture
def run(tiny: Run) -> Run:
    return replace(tiny, batch_size=15, iterations=ITERATIONS, milestones=[5, 11], dropout=0.2)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """Collects the final weights of every run that comes to its end."""
    ends: list[torch.Tensor] = []
    original = train.make_trainer

    def watched(*args, **settings):
        trainer = original(*args, **settings)
        fit = trainer.fit

        def and_keep(model, **data):
            fit(model, **data)
            ends.append(torch.cat([parameter.detach().flatten() for parameter in model.net.parameters()]))

        trainer.fit = and_keep
        return trainer

    monkeypatch.setattr(train, "make_trainer", watched)
    return ends


def curve(options: Options, run: Run) -> str:
    return (options.out / "runs" / run.run_id / "curve.csv").read_text()


def stop_at(*iterations: int, number: int = signal.SIGTERM):
    """A progress function that has the process signalled at these iterations, each once."""
    left = list(iterations)

    def progress(iteration: int, accuracy: float | None) -> None:
        if left and iteration >= left[0]:
            left.pop(0)
            os.kill(os.getpid(), number)

    return progress


@pytest.fixture(autouse=True)
def told_at_every_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.training.curve.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})


@pytest.mark.parametrize("init", ["lsuv", "msra"])
def test_cut_anywhere_it_ends_in_the_same_bits(
    run: Run, options: Options, tmp_path: Path, weights: list[torch.Tensor], init: str
) -> None:
    run = replace(run, init=init)
    whole = train_run(run, options)
    assert isinstance(whole, Result)
    assert whole.error is None
    cuts = (1, 5, 7, 8, 13, 16) if init == "lsuv" else (14,)
    for cut in cuts:
        elsewhere = replace(options, out=tmp_path / f"cut-{cut}")
        assert train_run(run, elsewhere, stop_at(cut)) is None
        folder = elsewhere.out / "runs" / run.run_id
        assert not (folder / "result.json").exists()
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        assert saved["iteration"] == cut
        torch.manual_seed(99)  # another process, another past
        again = train_run(run, elsewhere)
        assert isinstance(again, Result)
        assert curve(elsewhere, run) == curve(options, run)
        assert torch.equal(weights[-1], weights[0])
        assert again.init == whole.init
        assert (again.test_accuracy, again.train_loss, again.iteration) == (
            whole.test_accuracy,
            whole.train_loss,
            ITERATIONS,
        )
        assert again.seconds > saved["record"]["seconds"] > 0
        assert not (folder / "checkpoint.pt").exists()


@pytest.mark.parametrize("step", ["eager", "graph"])
def test_cut_again_and_again(
    run: Run, options: Options, tmp_path: Path, weights: list[torch.Tensor], step: str
) -> None:
    train_run(run, options)
    # A graph has places of its own, which the state that is taken up must reach.
    elsewhere = replace(options, out=tmp_path / "often", step=step)
    for cut, number in ((3, signal.SIGUSR1), (9, signal.SIGUSR2), (15, signal.SIGTERM)):
        assert train_run(run, elsewhere, stop_at(cut, number=number)) is None
    assert isinstance(train_run(run, elsewhere), Result)
    assert curve(elsewhere, run) == curve(options, run)
    assert torch.equal(weights[-1], weights[0])


def test_how_a_step_is_taken_is_for_the_process_that_takes_it(
    run: Run, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def configure(fused: bool | None) -> None:
        def optimizer(module: Classifier) -> torch.optim.Optimizer:
            made = torch.optim.SGD(module.net.parameters(), momentum=0.9, fused=fused)
            used.append(made)
            return made

        monkeypatch.setattr(Classifier, "configure_optimizers", optimizer)

    used: list[torch.optim.Optimizer] = []
    configure(fused=True)  # as on a GPU
    assert train_run(run, replace(options, step="graph"), stop_at(5)) is None
    configure(fused=None)
    assert isinstance(train_run(run, options), Result)
    first, second = (made.param_groups[0] for made in used)
    assert isinstance(first["lr"], torch.Tensor)
    assert (first["fused"], second["fused"], type(second["lr"])) == (True, None, float)


def test_a_kill_between_checkpoints_loses_only_what_came_after(
    run: Run, options: Options, tmp_path: Path, weights: list[torch.Tensor]
) -> None:
    train_run(run, options)
    elsewhere = replace(options, out=tmp_path / "killed", checkpoint_seconds=0.0)

    class KilledError(Exception):
        """Stands for kill -9: nothing is saved on the way out."""

    def progress(iteration: int, accuracy: float | None) -> None:
        if iteration == 10:
            raise KilledError

    failed = train_run(run, elsewhere, progress)
    assert isinstance(failed, Result)
    assert failed.status == "error"
    assert torch.load(elsewhere.out / "runs" / run.run_id / "checkpoint.pt", weights_only=True)["iteration"] == 9
    assert isinstance(train_run(run, elsewhere), Result)
    assert curve(elsewhere, run) == curve(options, run)
    assert torch.equal(weights[-1], weights[0])


@pytest.mark.parametrize("damage", ["torn", "garbage", "another run's", "an earlier schema", "code"])
def test_what_is_no_checkpoint_of_this_run_is_set_aside(
    run: Run, options: Options, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_run(run, options, stop_at(4)) is None
    path = options.out / "runs" / run.run_id / "checkpoint.pt"
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "garbage":
        path.write_bytes(b"no checkpoint")
    elif damage == "another run's":
        torch.save({**torch.load(path, weights_only=True), "identity": "another"}, path)
    elif damage == "an earlier schema":
        torch.save({**torch.load(path, weights_only=True), "schema": 1}, path)
    else:
        torch.save({"schema": 2, "identity": Evil()}, path)
    content = path.read_bytes()
    result = train_run(run, options)
    assert isinstance(result, Result)
    assert result.error is None
    assert path.with_name("checkpoint.pt.set-aside-1").read_bytes() == content
    assert "set aside" in capsys.readouterr().out
    assert not Evil.carried_out


class Evil:
    """Runs code when it is unpickled."""

    carried_out = False

    def __reduce__(self):
        return (setattr, (Evil, "carried_out", True))


def test_a_run_that_goes_on_with_other_code_says_so(run: Run, options: Options, tmp_path: Path) -> None:
    first = replace(options, commit=("a" * 40, False))
    assert train_run(run, first, stop_at(5)) is None
    assert train_run(run, first, stop_at(9)) is None  # the same code: no new part
    ended = train_run(run, replace(options, commit=("b" * 40, True)))
    assert isinstance(ended, Result)
    assert ended.parts is not None
    assert [(part["from"], part["commit"], part["dirty"]) for part in ended.parts] == [
        (0, "a" * 40, False),
        (9, "b" * 40, True),
    ]
    assert ended.parts[0]["environment"] == ended.environment
    assert read_result(options.out / "runs" / run.run_id / "result.json") == ended


@pytest.mark.parametrize("attack", ["packed", "huge", "pipe"])
def test_a_checkpoint_that_would_fill_the_memory_is_set_aside_unread(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "checkpoint.pt"
    if attack == "packed":  # a bomb: its entries unfold to a thousand times their size
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(10_000_000))
    elif attack == "huge":
        with path.open("wb") as file:
            file.truncate(checkpoint.MAX_BYTES + 1)  # without a byte on the disk
    else:
        os.mkfifo(path)
    with acquire(RunFolder(tmp_path), Owner("cpu", 1)) as lease:
        assert checkpoint.load(lease, "mine", "cpu") is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint.pt.set-aside-1"]


def test_signals_are_given_back(run: Run, options: Options) -> None:
    before = {one: signal.getsignal(one) for one in SIGNALS}
    train_run(replace(run, iterations=2, milestones=[]), options)
    assert {one: signal.getsignal(one) for one in SIGNALS} == before

"""Lightning's loggers: the files of whole, stopped and resumed trainings."""

import csv
from pathlib import Path

import pytest
from runs import stop_at, train_run

from replicate.data import synthetic
from replicate.logging_options import Logging
from replicate.options import Options
from replicate.run import Run
from replicate.store.measurements import read_curve, read_layers
from replicate.store.run_folder import RunFolder
from replicate.training.lightning_logger import LightningLogger

# 100 images in batches of 25: rows at iterations 4 and 8.
RUN = Run("lsuv", "relu", iterations=8, milestones=[4], batch_size=25, dataset="synthetic", width=0.125,
          precision="32-true", lsuv_batch_size=16)  # fmt: skip


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "TRAIN", 100)
    monkeypatch.setattr(synthetic, "TEST", 20)


def test_a_resumed_run_is_logged_once_and_as_its_files_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.training.measurements.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})
    options = Options(out=tmp_path, logging=Logging(logger="csv"))
    assert train_run(RUN, options, stop_at(5)) is None
    result = train_run(RUN, options)
    assert (result.status, result.url, result.options["logger"]) == ("not_converged", None, "csv")
    folder = RunFolder.of(tmp_path, RUN)
    assert "activation: relu" in (folder.path / "csv" / "hparams.yaml").read_text().splitlines()
    with (folder.path / "csv" / "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [int(row["step"]) for row in logged] == [0, 0, 4, 8, 8]
    accuracies = {int(row["step"]): float(row["test/accuracy"]) for row in logged if row["test/accuracy"]}
    assert accuracies == read_curve(folder, ["test_accuracy"])["test_accuracy"]
    assert float(logged[0]["init/variance/conv1/0"]) == result.init[0]["variance"]
    for row, snapshot in zip((logged[1], logged[3]), read_layers(folder, result.fingerprint), strict=True):
        for layer in snapshot.layers:
            assert float(row[f"gradient_norm/{layer.name}/0"]) == layer.gradient_norm


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_run(RUN, Options(out=tmp_path, logging=Logging(logger="tensorboard")))
    folder = RunFolder.of(tmp_path, RUN)
    events = EventAccumulator(str(folder.path / "tensorboard")).Reload()
    logged = {event.step: event.value for event in events.Scalars("test/accuracy")}
    assert logged == pytest.approx(read_curve(folder, ["test_accuracy"])["test_accuracy"])


def test_a_training_does_not_need_its_logger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    logger = LightningLogger(RUN, "csv", tmp_path / "file")  # no folder can be made in it
    logger.finish(None)  # a training whose data cannot be loaded ends before the start
    logger.start("3f" * 32)
    logger.row({"iteration": 1.0})
    logger.finish(None)
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("Error(" in line and line.endswith("; the run continues without it") for line in lines)

"""The W&B run of a training, read back from its offline file."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from runs import stop_at, train_run
from wandb_log import closed, items, table

from replicate.data import synthetic
from replicate.logging_options import Logging
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.tracking.logger import WandbLogger

# 100 images in batches of 25: rows at iterations 4 and 8.
RUN = Run("lsuv", "maxout", iterations=8, milestones=[4], batch_size=25, dataset="synthetic", width=0.125,
          precision="32-true", lsuv_batch_size=16, lsuv_max_iter=1)  # fmt: skip


@dataclass
class Trained:
    result: Result | None
    folder: Path  # of W&B's offline run
    records: list[Any]

    def all(self, kind: str) -> list[Any]:
        return [getattr(record, kind) for record in self.records if record.HasField(kind)]

    def history(self) -> dict[int, dict[str, Any]]:
        return {row["_step"]: row for row in map(items, self.all("history"))}


def train(out: Path, progress: Any = lambda *_: None) -> Trained:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "TRAIN", 100)
        patch.setattr(synthetic, "TEST", 20)
        patch.setenv("WANDB_API_KEY", KEY)
        patch.delenv("WANDB_DATA_DIR", raising=False)
        result = train_run(RUN, Options(out=out, logging=Logging(wandb="offline"), experiment="trial"), progress)
        os.environ.pop("WANDB_DATA_DIR")  # the logger has set it
    (folder,) = (out / "runs" / RUN.run_id / "wandb").glob("offline-run-*")
    return Trained(result, folder, closed(folder))


KEY = "0123456789abcdef" * 2 + "deadbeef"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(tmp_path_factory.mktemp("out"))


def test_the_run_and_its_summary(trained: Trained) -> None:
    import wandb

    assert wandb.run is None  # closed
    (run,) = trained.all("run")
    assert (run.project, run.run_group, run.job_type) == ("lsuv-replication", "trial", "train")
    assert list(run.tags) == ["lsuv", "maxout"]
    assert run.run_id == f"{RUN.run_id}-{trained.result.fingerprint[:6]}"
    assert run.display_name == f"lsuv-maxout-s00-{RUN.run_id[-8:]}"
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: value for key, value in config.items() if key != "_wandb"} == json.loads(json.dumps(asdict(RUN)))
    summary = {key: value for update in trained.all("summary") for key, value in items(update).items()}
    for key in ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second"):
        assert summary[key] == getattr(trained.result, key)
    # The summary has what a workspace shows of a table.
    assert (summary["init/report/nrows"], summary["layers/table/nrows"]) == (40, 80)
    assert [end.exit_code for end in trained.all("exit")] == [0]


def test_curves_with_both_axes(trained: Trained) -> None:
    metrics = {metric.name or metric.glob_name: metric.step_metric for metric in trained.all("metric")}
    logged = ("train/*", "test/*", "lr", "layers/log10_variance", "layers/log10_gradient_norm")
    assert metrics.items() >= {"iteration": "", "epoch": "", **dict.fromkeys(logged, "iteration")}.items()
    rows = [row for row in trained.history().values() if "test/accuracy" in row]
    assert [(row["iteration"], row["epoch"], row["lr"]) for row in rows] == [(4, 1, 0.01), (8, 2, 0.001)]
    assert rows[-1]["test/accuracy"] == trained.result.test_accuracy


def test_layers_as_histograms_and_tables(trained: Trained) -> None:
    history = trained.history()
    assert sorted(history) == [0, 4, 8]
    for key in ("variance", "gradient_norm"):
        assert sum(history[8][f"layers/log10_{key}/values"]) == 40  # 17 × 2 + 5 + 1 pieces
    content = json.loads((trained.folder.parents[1] / "layers.json").read_text())
    expected = []
    for moment in content["moments"]:
        for position, layer in enumerate(moment["layers"]):
            name, values = layer.pop("name"), layer.pop("singular_values")
            row = {"iteration": moment["iteration"], "position": position, "layer": name, **layer}
            expected.append({**row, "largest": values[0], "smallest": values[-1]})
    assert table(trained.folder, history[8], "layers/table") == expected
    assert table(trained.folder, history[0], "init/report") == trained.result.init


def test_the_files_are_an_artifact_and_hold_no_key(trained: Trained) -> None:
    artifacts, folder = trained.all("artifact"), trained.folder.parents[1]
    (record,) = [artifact for artifact in artifacts if artifact.type == "record"]
    assert record.name == f"record-{RUN.run_id}-{trained.result.fingerprint[:6]}"
    names = {entry.path for entry in record.manifest.contents}
    assert names == {"result.json", "curve.csv", "layers.json", "predictions.npz"}
    # All that an upload will need is in the run's folder, and no key is.
    paths = [Path(entry.local_path) for artifact in artifacts for entry in artifact.manifest.contents]
    assert all(path.is_file() and path.is_relative_to(folder) for path in paths)
    assert not [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_resumed_offline_run_is_logged_from_its_beginning(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.training.measurements.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})
    stopped = train(tmp_path, stop_at(5))
    assert (stopped.result, list(stopped.history())) == (None, [0, 4])
    (copy := stopped.folder.parent / "artifacts" / "copy").mkdir(parents=True)
    resumed = train(tmp_path).history()
    assert not copy.exists()  # nor does it keep what the first part would have uploaded
    assert resumed.keys() == trained.history().keys()
    for step, row in trained.history().items():
        # Tables are compared by their content's hash; clocks and where W&B keeps the tables differ.
        keys = [key for key in row if not key.endswith(("_timestamp", "_runtime", "artifact_path"))]
        assert {key: row[key] for key in keys} == {key: resumed[step][key] for key in keys}


def test_project_entity_and_tags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(name: str, logging: Logging) -> Any:
        (tmp_path / name).mkdir()
        logger = WandbLogger(RUN, Options(out=tmp_path, logging=logging), tmp_path / name)
        assert logger.start("3f" * 32) is None  # an offline run has no URL
        logger.finish(None)
        (folder,) = (tmp_path / name / "wandb").glob("offline-run-*")
        (run,) = (record.run for record in closed(folder) if record.HasField("run"))
        return run.project, run.entity, list(run.tags)

    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    plain = Logging(wandb="offline")
    assert started("environment", plain) == ("ours", "team", ["lsuv", "maxout"])
    given = replace(plain, wandb_project="mine", wandb_entity="me", wandb_tags="laptop,first")
    assert started("options", given) == ("mine", "me", ["lsuv", "maxout", "laptop", "first"])


def test_a_run_that_is_online_has_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://wandb.example.org/me/mine/runs/1"
    monkeypatch.setattr("wandb.init", lambda **_: SimpleNamespace(url=url, define_metric=lambda *_, **__: None))
    logger = WandbLogger(RUN, Options(out=tmp_path, logging=Logging(wandb="online")), tmp_path)
    assert logger.start("3f" * 32) == url


class Broken:
    def __getattr__(self, name: str) -> None:
        raise OSError(f"no {name}")


@pytest.mark.parametrize(
    ("init", "failures"),
    [
        (lambda **_: Broken().route, ["route"]),
        (lambda **_: Broken(), ["define_metric", "starting_step", "starting_step", "summary", "finish"]),
    ],
)
def test_a_training_does_not_need_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], init: Any, failures: list[str]
) -> None:
    monkeypatch.setattr("wandb.init", init)
    logger = WandbLogger(RUN, Options(out=tmp_path, logging=Logging(wandb="online")), tmp_path)
    logger.finish(None)  # a training whose data cannot be loaded ends before the start
    logger.start("3f" * 32)
    logger.initialized([{"layer": "conv1"}], [], [])
    logger.row({"iteration": 1.0})
    logger.finish(None)
    printed = [f"W&B: OSError('no {name}'); the run continues without it" for name in failures]
    assert capsys.readouterr().out.splitlines() == printed

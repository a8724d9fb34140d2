"""The W&B run of a training, read back from its offline file."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from runs import train_run
from wandb_log import closed, items

from replicate.data import synthetic
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.tracking.runs import display_name, wandb_id

KEY = "0123456789abcdef" * 2 + "deadbeef"
# 100 images in batches of 25: rows at iterations 4 and 8.
RUN = Run(
    *("lsuv", "maxout"),
    dataset="synthetic",
    width=0.125,
    iterations=8,
    milestones=[4],
    batch_size=25,
    lsuv_batch_size=16,
    precision="32-true",
)


@dataclass
class Trained:
    result: Result
    home: Path
    folder: Path
    records: list[Any]

    def history(self) -> dict[int, dict[str, Any]]:
        rows = [items(record.history) for record in self.records if record.HasField("history")]
        return {row["_step"]: row for row in rows}

    def table(self, row: dict[str, Any], key: str) -> dict[str, Any]:
        found = json.loads((self.folder / "files" / row[f"{key}/path"]).read_text())
        assert row[f"{key}/nrows"] == len(found["data"])
        return found


def offline(run: Run, out: Path) -> tuple[Path, list[Any]]:
    (folder,) = (out / "runs" / run.run_id / "wandb").glob("offline-run-*")
    return folder, closed(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """A training with a key in the environment, and a home folder of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("HOME", str(home))
        patch.delenv("WANDB_DATA_DIR", raising=False)
        patch.setattr(synthetic, "TRAIN", 100)
        patch.setattr(synthetic, "TEST", 20)
        result = train_run(RUN, Options(out=home / "out", wandb="offline", experiment="trial"))
        assert isinstance(result, Result)
        assert result.error is None
        assert "WANDB_DATA_DIR" not in os.environ
        yield Trained(result, home, *offline(RUN, home / "out"))


def test_the_run_says_what_it_is(trained: Trained) -> None:
    import wandb

    assert wandb.run is None  # closed
    (run,) = (record.run for record in trained.records if record.HasField("run"))
    assert (run.project, run.run_group, run.job_type) == ("lsuv-replication", "trial", "train")
    assert list(run.tags) == ["lsuv", "maxout"]
    assert run.run_id == wandb_id(RUN, trained.result.fingerprint) == f"{RUN.run_id}-{trained.result.fingerprint[:6]}"
    assert run.display_name == display_name(RUN)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: value for key, value in config.items() if key != "_wandb"} == json.loads(json.dumps(asdict(RUN)))


def test_names_sort() -> None:
    names = [display_name(replace(RUN, seed=seed)) for seed in (0, 2, 10)]
    assert names == sorted(names)
    assert names[2].startswith("lsuv-maxout-s10-")
    assert names[1] == f"lsuv-maxout-s02-{replace(RUN, seed=2).run_id[-8:]}"


def test_curves_with_both_axes(trained: Trained) -> None:
    metrics = {m.name or m.glob_name: m for m in (r.metric for r in trained.records if r.HasField("metric"))}
    assert {"iteration", "epoch"} <= metrics.keys()
    for key in ("train/*", "test/*", "lr", "layers/log10_variance", "layers/log10_gradient_norm"):
        assert metrics[key].step_metric == "iteration"
    rows = {step: row for step, row in trained.history().items() if "test/accuracy" in row}
    assert {step: (row["iteration"], row["epoch"], row["lr"]) for step, row in rows.items()} == {
        4: (4, 1, 0.01),
        8: (8, 2, 0.001),
    }
    assert {"train/loss", "train/accuracy", "test/loss", "test/accuracy"} <= rows[4].keys()
    assert rows[8]["test/accuracy"] == trained.result.test_accuracy
    assert rows[8]["train/loss"] == trained.result.train_loss


def test_layers_as_histograms_and_table(trained: Trained) -> None:
    content = json.loads((trained.home / "out/runs" / RUN.run_id / "layers.json").read_text())
    history = trained.history()
    assert sorted(history) == [0, 4, 8]
    for step in (0, 8):
        for key in ("variance", "gradient_norm"):
            assert sum(history[step][f"layers/log10_{key}/values"]) == 40  # 17 × 2 + 5 + 1 pieces
        assert history[step]["iteration"] == step
    table = trained.table(history[8], "layers/table")
    assert table["columns"] == [
        *("iteration", "position", "layer", "piece", "variance", "gradient_norm", "largest", "smallest")
    ]
    layers = [(moment["iteration"], n, e) for moment in content["moments"] for n, e in enumerate(moment["layers"])]
    assert table["data"] == [
        [
            i,
            n,
            *(e[key] for key in ("name", "piece", "variance", "gradient_norm")),
            *(e["singular_values"][k] for k in (0, -1)),
        ]
        for i, n, e in layers
    ]


def test_the_lsuv_report_is_a_table(trained: Trained) -> None:
    table = trained.table(trained.history()[0], "init/report")
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == trained.result.init
    assert len(table["data"]) == 40


def test_the_summary_is_the_result(trained: Trained) -> None:
    summary: dict[str, Any] = {}
    for record in trained.records:
        if record.HasField("summary"):
            summary |= items(record.summary)
    for key in ("status", "test_accuracy", "train_loss", "iteration", "seconds", "images_per_second"):
        assert summary[key] == getattr(trained.result, key)
    assert summary["init/report/nrows"] == 40  # what a workspace shows of a table is in the summary
    assert summary["layers/table/nrows"] == 80
    assert [record.exit.exit_code for record in trained.records if record.HasField("exit")] == [0]


def test_the_record_is_an_artifact(trained: Trained) -> None:
    artifacts = [record.artifact for record in trained.records if record.HasField("artifact")]
    (record,) = [artifact for artifact in artifacts if artifact.type == "record"]
    assert record.name == f"record-{wandb_id(RUN, trained.result.fingerprint)}"
    paths = {entry.path: Path(entry.local_path) for entry in record.manifest.contents}
    assert set(paths) == {"result.json", "curve.csv", "layers.json", "predictions.npz"}
    # All that an upload will need is in the run's folder.
    folder = trained.home / "out/runs" / RUN.run_id
    for artifact in artifacts:
        for entry in artifact.manifest.contents:
            assert Path(entry.local_path).is_file()
            assert Path(entry.local_path).is_relative_to(folder)


def test_no_key_lands_in_a_file(trained: Trained) -> None:
    files = [path for path in trained.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_taken_up_again_the_offline_run_is_logged_from_its_beginning(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replicate.training.curve.PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("replicate.data.datamodule.CHUNK", {"cpu": 1})
    monkeypatch.setattr(synthetic, "TRAIN", 100)
    monkeypatch.setattr(synthetic, "TEST", 20)
    options = Options(out=tmp_path / "out", wandb="offline", experiment="trial")
    assert train_run(RUN, options, lambda i, _: os.kill(os.getpid(), signal.SIGTERM) if i == 5 else None) is None
    first, records = offline(RUN, options.out)
    history = [items(record.history) for record in records if record.HasField("history")]
    assert [row["_step"] for row in history] == [0, 4]
    again = train_run(RUN, options)
    assert isinstance(again, Result)
    second, records = offline(RUN, options.out)
    assert not first.exists() or first == second
    whole = Trained(again, options.out, second, records)
    clocks = ("_timestamp", "_runtime")

    def bare(history: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
        # Tables are compared by their content's hash; where W&B keeps them differs.
        keys = {key for row in history.values() for key in row if "artifact_path" not in key and key not in clocks}
        return {step: {key: row[key] for key in keys & row.keys()} for step, row in history.items()}

    assert bare(whole.history()) == bare(trained.history())
    assert len([record for record in records if record.HasField("run")]) == 1

"""What is left to do, and the records that stand in the way."""

from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from workers import SYNTHETIC, put, record

from replicate.errors import UsageError
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import check_shares, left_to_do, long_ones_first, survey
from replicate.options import Options
from replicate.run import Run

RUNS = [Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(3)]
HERE = {"synthetic": SYNTHETIC}


class Heard(Display):
    def __init__(self) -> None:
        self.text = StringIO()
        super().__init__(Console(file=self.text, width=500))


def folder(out: Path, run: Run) -> Path:
    return out / "runs" / run.run_id


def test_finished_runs_are_not_left_failed_ones_are(tmp_path: Path) -> None:
    put(record(RUNS[0], Options(tmp_path)), folder(tmp_path, RUNS[0]))
    put(replace(record(RUNS[1], Options(tmp_path)), status="diverged", test_accuracy=None), folder(tmp_path, RUNS[1]))
    failed = replace(record(RUNS[2], Options(tmp_path)), status="error", fingerprint="unknown", error="boom")
    put(failed, folder(tmp_path, RUNS[2]))
    assert left_to_do(tmp_path, RUNS, HERE, Heard()) == [RUNS[2]]
    assert left_to_do(tmp_path, RUNS, HERE, Heard(), {RUNS[2].run_id: failed}) == [RUNS[2]]
    for other in ({}, {RUNS[2].run_id: replace(failed, error="an earlier one")}):
        assert left_to_do(tmp_path, RUNS, HERE, Heard(), other) == []


def test_a_record_that_is_none_is_named_and_left_to_do(tmp_path: Path) -> None:
    path = folder(tmp_path, RUNS[0]) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    heard = Heard()
    assert left_to_do(tmp_path, RUNS, HERE, heard) == RUNS
    assert path.read_text() == "{"  # another command may be about to mend it: only the run's owner sets it aside
    assert str(path) in heard.text.getvalue()
    assert "not a whole result" in heard.text.getvalue()


def test_a_finished_run_on_other_data_is_an_error_that_names_both(tmp_path: Path) -> None:
    put(record(RUNS[0], Options(tmp_path)), folder(tmp_path, RUNS[0]))
    before = (folder(tmp_path, RUNS[0]) / "result.json").read_bytes()
    with pytest.raises(UsageError, match=f"{SYNTHETIC}.*{'0' * 64}") as caught:
        left_to_do(tmp_path, RUNS, {"synthetic": "0" * 64}, Heard())
    assert RUNS[0].run_id in str(caught.value)
    assert (folder(tmp_path, RUNS[0]) / "result.json").read_bytes() == before


def test_the_survey_finds_the_data_in_another_process(launcher: LocalLauncher, tmp_path: Path) -> None:
    found = survey(launcher, RUNS, tmp_path, Heard())
    assert found.gpus >= 0
    assert len(found.fingerprints["synthetic"]) == 64
    assert found.test_images == {"synthetic": 500}


def test_data_that_is_not_there_is_the_users_error(launcher: LocalLauncher, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        survey(launcher, [Run("lsuv", "relu", dataset="folder:nowhere")], tmp_path, Heard())


def test_a_run_that_has_too_few_images_for_its_devices_is_refused() -> None:
    run = Run("lsuv", "relu", dataset="synthetic", batch_size=4)
    check_shares([run], {"synthetic": 500}, 4)
    with pytest.raises(UsageError, match=f"--devices-per-run 5 .*{run.run_id} has 4 images a batch; give 1 to 4"):
        check_shares([RUNS[0], run], {"synthetic": 500}, 5)
    with pytest.raises(UsageError, match=f"--devices-per-run 4 .*{run.run_id} has 3 test images; give 1 to 3"):
        check_shares([run], {"synthetic": 3}, 4)


def test_long_runs_go_first_in_the_last_rounds_alone() -> None:
    pair = [(Run("lsuv", "relu", seed), Run("lsuv", "maxout", seed)) for seed in range(10)]
    runs = [run for both in pair for run in both]
    order = long_ones_first(runs, 4)  # 2 rounds of 4
    assert order[:12] == runs[:12]
    assert order[12:] == [both[1] for both in pair[6:]] + [both[0] for both in pair[6:]]
    assert long_ones_first(runs[:4], 100) == [pair[0][1], pair[1][1], pair[0][0], pair[1][0]]
    longer = replace(pair[0][0], iterations=900_000)
    assert long_ones_first([*pair[0], longer], 2)[0] == longer

"""Carrying out runs: what is refused before anything starts, and the work of one worker of a cluster."""

import sys
from functools import partial
from math import inf
from pathlib import Path

import pytest
from made_images import image_folder
from workers import ended, put

from replicate import carry_out
from replicate.carry_out import Request, sum_up, work
from replicate.cli import main
from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.matrix.resources import may_have_gpu
from replicate.matrix.scheduler import MatrixSummary
from replicate.options import Options, Resources
from replicate.run import Run
from replicate.store.run_folder import RunFolder

SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")


NEEDS_GPU = pytest.mark.skipif(may_have_gpu(), reason="only torch can count the GPUs of this machine")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param("--devices 9", "there is no GPU 9: this machine has 0 GPUs and its CPU", marks=NEEDS_GPU),
        pytest.param("--step graph", "--step graph needs an NVIDIA GPU; elsewhere choose from: auto", marks=NEEDS_GPU),
        ("--devices cpu --devices-per-run 33", "has 32 images a batch; give 1 to 32"),
        ("--set dataset=folder:gone --data-dir DIR", "no data set 'gone' in DIR, which contains: no data set"),
    ],
)
def test_wrong_usage_is_refused_before_a_process_loads_torch(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(carry_out, "LocalLauncher", None)  # it would start one
    words, message = (text.replace("DIR", str(tmp_path)) for text in (words, message))
    assert main(["matrix", SMOKE, "--out", str(tmp_path / "out"), *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_images_that_the_model_does_not_take_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    image_folder(tmp_path / "pets", train=2, test=2)
    words = ["--set", "dataset=folder:pets", "model=mnist_fitnet", "--data-dir", str(tmp_path), "--devices", "cpu"]
    assert main(["matrix", SMOKE, "--out", str(tmp_path / "out"), *words]) == 2
    message = "the images of folder:pets have 3×32×32 values, and model mnist_fitnet takes 1×28×28; for these images"
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize(("name", "module"), [("slurm", "submitit"), ("ray", "ray")])
def test_without_its_extra_a_launcher_says_what_to_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["matrix", SMOKE, "--launcher", name, "--out", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert f"pip install '.[{name}]'" in error


def test_no_job_is_written_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "slurm").symlink_to(tmp_path / "elsewhere")
    assert main(["matrix", SMOKE, "--launcher", "slurm", "--out", str(tmp_path)]) == 2
    assert "is a symbolic link" in capsys.readouterr().err


def test_the_time_limit_counts_from_the_start_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", SMOKE, "--out", str(tmp_path), "--devices", "cpu", "--time-limit", "1s"]) == 3
    assert "time limit reached; the same command continues\n0 of 23 runs are done" in capsys.readouterr().out


def test_the_records_of_other_seeds_do_not_count_in_the_summary(tmp_path: Path) -> None:
    runs = [Run("lsuv", "relu", seed) for seed in range(9)]
    made = [ended(runs[0]), ended(runs[1], "error"), ended(runs[2], "error"), *map(ended, runs[4:])]
    for result in made:
        put(result, RunFolder.of(tmp_path, result.run).path)
    assert sum_up(runs[:4], tmp_path, {runs[2].run_id: made[2]}) == MatrixSummary(errors=1, unfinished=2)


def test_a_late_worker_retries_earlier_errors_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry_out, "Scheduler", partial(carry_out.Scheduler, train="workers:train"))
    experiment = Experiment.load(SMOKE).with_settings({"init": "lsuv", "activation": "relu", "seed": [0, 1, 4]})
    runs = experiment.runs()
    folders = [RunFolder.of(tmp_path, run) for run in runs]
    errors = {run.run_id: ended(run, "error") for run in runs}
    for folder in folders:
        put(errors[folder.run_id], folder.path)
    *_, meanwhile = errors  # this one failed in another worker, after the command had begun
    retried = {run_id: error for run_id, error in errors.items() if run_id != meanwhile}
    request = Request(Selected(experiment, runs, tmp_path), Resources(devices="cpu", per_device=1), Options(tmp_path))
    for _ in range(2):  # a second worker retries nothing
        assert work(request, False, retried, inf) == MatrixSummary(errors=2, unfinished=0)
        converged, failed, untouched = (folder.record() for folder in folders)
        assert (converged.status, failed.error.splitlines()[-1]) == ("converged", "ValueError: seed 1 fails")
        assert untouched == errors[meanwhile]
        assert len(list(tmp_path.glob("seed-*"))) == 2

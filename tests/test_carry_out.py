"""Carrying out runs: what is refused before anything starts, and the work of one worker of a cluster."""

import argparse
import sys
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import pytest
from workers import put, record

from replicate import carry_out
from replicate.carry_out import Request, work
from replicate.cli import main
from replicate.experiment import Experiment
from replicate.matrix.scheduler import Outcome
from replicate.options import Options
from replicate.store.run_folder import RunFolder

SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launcher", "cloud"], "unknown launcher 'cloud'; choose from: local, slurm, ray"),
        (["--slurm.time", "5"], "--slurm.… is for replicate matrix and verify with --launcher slurm"),
        (
            ["--workers", "2"],
            "--workers is for clusters; on this machine, --per-device says how many runs",
        ),
        (["--launcher", "slurm", "--workers", "0"], "--workers 0 is out of range; give 1 to 1000"),
        (
            ["--launcher", "slurm", "--devices", "gpu"],
            "unknown device 'gpu'; choose from: auto, cpu, mps",
        ),
        (["--launcher", "slurm", "--per-device", "0"], "--per-device 0 is out of range; give 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", SMOKE, "--out", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "module"), [("slurm", "submitit"), ("ray", "ray")])
def test_without_its_extra_a_launcher_says_what_to_install(
    name: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["matrix", SMOKE, "--launcher", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"pip install '.[{name}]'" in error
    assert error.count("\n") == 1


def test_no_job_is_written_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit")
    (tmp_path / "slurm").symlink_to(tmp_path / "elsewhere")
    assert main(["matrix", SMOKE, "--launcher", "slurm", "--out", str(tmp_path)]) == 2
    assert "is a symbolic link" in capsys.readouterr().err


def test_a_late_worker_retries_earlier_errors_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carry_out, "run_all", partial(carry_out.run_all, train="workers:train"))
    fields = {"init": "lsuv", "activation": "relu", "seed": [0, 1, 4]}
    experiment = Experiment.load(Path(SMOKE)).with_settings(fields)
    converges, fails, since = experiment.runs()
    retried = {}
    for run, reason in ((converges, "before"), (fails, "before"), (since, "meanwhile, in another worker")):
        error = replace(record(run, Options(tmp_path)), status="error", test_accuracy=None, error=reason)
        put(error, RunFolder.of(tmp_path, run).path)
        retried[run.run_id] = error
    del retried[since.run_id]
    args = argparse.Namespace(devices="cpu", per_device=1, threads_per_run=1, devices_per_run=1, step="auto", retries=1)
    request = Request(experiment, experiment.runs(), Options(tmp_path), args)

    def errors() -> list[str | None]:
        found = [RunFolder.of(tmp_path, run).record() for run in experiment.runs()]
        return [result.error and result.error.splitlines()[-1] for result in found if result]

    assert work(request, False, retried, inf) == Outcome(errors=2, left=0)
    after = [None, "ValueError: seed 1 fails", "meanwhile, in another worker"]
    assert errors() == after
    records = [RunFolder.of(tmp_path, run).record() for run in experiment.runs()]
    assert work(request, False, retried, inf) == Outcome(errors=2, left=0)
    assert [RunFolder.of(tmp_path, run).record() for run in experiment.runs()] == records

"""The choice of the launcher, by the command line."""

import sys
from pathlib import Path

import pytest

from replicate.arguments import split_cluster
from replicate.cli import main
from replicate.errors import UsageError

SMOKE = str(Path(__file__).parents[2] / "experiments" / "smoke.yaml")


def test_the_options_of_clusters_are_taken_out_of_the_command_line() -> None:
    words = [
        "matrix",
        "--slurm.partition",
        "gpu",
        "a.yaml",
        "--slurm.cpus-per-task=2",
        "--ray.address",
        "x:1",
        "--out",
        "o",
    ]
    rest, found = split_cluster(words)
    assert rest == ["matrix", "a.yaml", "--out", "o"]
    assert found == {"slurm": {"partition": "gpu", "cpus_per_task": "2"}, "ray": {"address": "x:1"}}
    with pytest.raises(UsageError, match=r"--slurm.time takes a value"):
        split_cluster(["--slurm.time"])


@pytest.mark.parametrize(("name", "module", "install"), [("slurm", "submitit", "slurm"), ("ray", "ray", "ray")])
def test_without_its_extra_a_launcher_says_what_to_install(
    name: str,
    module: str,
    install: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["matrix", SMOKE, "--launcher", name, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"pip install '.[{install}]'" in error
    assert error.count("\n") == 1


def test_options_of_a_cluster_that_is_not_chosen_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["matrix", SMOKE, "--slurm.time", "5", "--out", str(tmp_path)]) == 2
    assert "with --launcher slurm" in capsys.readouterr().err


def test_no_job_is_written_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slurm").symlink_to(tmp_path / "elsewhere")
    assert main(["matrix", SMOKE, "--launcher", "slurm", "--out", str(tmp_path)]) == 2
    assert "is a symbolic link" in capsys.readouterr().err

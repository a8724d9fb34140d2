"""Commands in surroundings that were made for other programs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_records import fill

from replicate.cli import main
from replicate.experiment import Experiment

ROOT = Path(__file__).parents[1]
SMOKE = str(ROOT / "experiments" / "smoke.yaml")
ONE = ["--only", "init=lsuv", "activation=tanh", "--set", "iterations=2", "milestones=[]", "lsuv_max_iter=1"]
REPLICATE = str(Path(sys.executable).with_name("replicate"))
MODULES = ("torchmetrics", "matplotlib", "yaml", "rich", "pydantic", "click", "replicate", "random", "numpy", "wandb")


@pytest.fixture
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with modules that note that they were imported, and variables of a notebook and of a hook."""
    here, long = tmp_path / "here", tmp_path / ("x" * 120)
    long.mkdir()
    for name in MODULES:
        (here / name).mkdir(parents=True)
        (here / name / "__init__.py").write_text(f"print('{name}', file=open({str(tmp_path / 'imported')!r}, 'a'))")
    (here / "matplotlibrc").write_bytes(b"# gr\xfc\xdfe\nfigure.facecolor: red\nsavefig.dpi: 7\nnonsense\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "no-repository"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "no-index"))
    return tmp_path


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_matrix_and_its_figures_in_odd_surroundings(traps: Path) -> None:
    out = ["--out", str(traps / "out")]
    done = call(REPLICATE, "matrix", SMOKE, *ONE, *out, "--devices", "cpu", "--wandb", "offline")
    assert "1 of 1 run is done, 0 with an error" in done.stdout, done.stdout + done.stderr
    for command in (["figures"], ["sync", "--dry-run"]):
        followed = call(REPLICATE, command[0], SMOKE, *ONE, *out, *command[1:])
        assert (followed.returncode, followed.stderr) == (0, "")
    assert not (traps / "imported").exists(), (traps / "imported").read_text()
    picture = traps / "out" / "figures" / "curves.png"
    odd = picture.read_bytes()
    os.chdir(traps)  # away from its matplotlibrc
    assert main(["figures", SMOKE, *ONE, *out]) == 0
    assert picture.read_bytes() == odd
    (record,) = traps.glob("out/runs/*/result.json")
    head = subprocess.check_output(
        ["git", "-C", ROOT, "rev-parse", "HEAD"], text=True, env={"PATH": os.environ["PATH"]}
    )
    assert head.strip() in record.read_text()
    # a folder that torch makes when it is imported, and uses for all programs
    assert {path.name.partition("_")[0] for path in (traps / ("x" * 120)).iterdir()} <= {"torchinductor"}


@pytest.mark.parametrize(("encoding", "commands"), [("ascii", ["status", "table"]), ("latin-1", ["table"])])
def test_characters_that_the_output_lacks_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, commands: list[str]
) -> None:
    fill(tmp_path, Experiment.load(SMOKE).runs()[:4], points=2)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    for command in commands:
        words = [REPLICATE, command, SMOKE, "--out", str(tmp_path)]
        done = subprocess.run(words, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"?" in done.stdout


def test_a_command_in_a_process_changes_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "svg")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = dict(os.environ)
    assert main(["list"]) == 0
    assert dict(os.environ) == before


def test_a_command_needs_no_folder_for_temporary_files(tmp_path: Path) -> None:
    script = 'ulimit -f 0; exec "$@"'
    done = call("bash", "-c", script, "bash", REPLICATE, "status", SMOKE, "--out", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_checkout_that_is_not_installed_runs_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here another checkout is installed."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "replicate", checkout / "replicate")
    # Its server loads no torch, but says at once that it cannot.
    (checkout / "replicate" / "matrix" / "preload.py").write_text("failure = 'this is the code of the checkout'")
    monkeypatch.chdir(checkout)
    out = ["--out", str(tmp_path / "out"), "--devices", "cpu", "--wandb", "off"]
    done = call(sys.executable, "-m", "replicate", "matrix", SMOKE, *ONE, *out)
    assert (done.returncode, done.stderr) == (2, "replicate: this is the code of the checkout\n")
    # in a session of Python as well, where the current folder is an empty name; not where packages are installed
    code = "import os, replicate.isolation as one; one.isolate(); print(os.environ['PYTHONPATH'])"
    assert call(sys.executable, "-c", code).stdout == f"{checkout}\n"
    packages = tmp_path / "site-packages"
    shutil.copytree(ROOT / "replicate", packages / "replicate")
    code = f"import sys; sys.path.append({str(packages)!r}); sys.path.pop(0); sys.meta_path.pop(); {code}"
    assert call(sys.executable, "-c", code).stdout == "\n"

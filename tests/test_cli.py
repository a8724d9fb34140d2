"""The commands, as a user types them; what takes long is in test_end_to_end.py."""

from pathlib import Path

import pytest
from command_lines import parse
from workers import ended, put, record

from replicate.cli import COMMANDS, main
from replicate.experiment import Experiment
from replicate.options import Options, Selection
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

SMOKE = str(Path(__file__).parents[1] / "experiments" / "smoke.yaml")
LSUV, ORTHO = Experiment.load(SMOKE).runs({"init": ["lsuv", "orthonormal"], "activation": "tanh"})
Output = pytest.CaptureFixture[str]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Results of two of the smoke runs: one converged, one failed."""
    put(record(LSUV, Options(tmp_path)), RunFolder.of(tmp_path, LSUV).path)
    put(ended(ORTHO, "error"), RunFolder.of(tmp_path, ORTHO).path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("matrix no.yaml", "no.yaml: cannot read the experiment file: No such file or directory"),
        ("matrix FILE --only init=lsuv --only init=msra", "--only gives init twice"),
        ("matrix FILE --outt x", "Unknown option: --outt. Did you mean --out?"),
        ("matrix FILE --set", "--set requires at least 1 element"),
        ("matrix FILE another.yaml", "unexpected argument 'another.yaml'"),
        ("matrx", "unknown command 'matrx' (did you mean 'matrix'?); choose from: matrix, run, "),
        ("collect --out nothing-here", "no folder to merge; give output folders"),
        ("verify FILE --sample 0", "--sample '0' is not a number of runs; give 1 or more, or all"),
        ("report FILE --out /dev/null/out", "cannot write /dev/null/out/report: Not a directory"),
        ("run FILE", "smoke has 23 runs; fix its axes to get one: --set init=… activation=…"),
        ("table FILE --out nothing-here", "nothing-here holds no finished run of smoke; fill it with"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([SMOKE if word == "FILE" else word for word in words.split()]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert (captured.out, line.startswith("replicate: "), message in line) == ("", True, True)
    assert not (tmp_path / "nothing-here").exists()


def test_too_many_devices_are_refused_before_anything_starts(capsys: Output, tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--devices", "cpu", "--devices-per-run", "33"]
    assert main(["matrix", SMOKE, *words]) == 2
    assert " has 32 images a batch; give 1 to 32\n" in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*"))


def test_status(capsys: Output, out: Path) -> None:
    (run,) = Experiment.load(SMOKE).runs({"init": ["lsuv"], "activation": "relu"})
    with acquire(RunFolder.of(out, run), Owner("gpu 3", 200, iteration=120, test_accuracy=35.25)):
        assert main(["status", SMOKE, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "23 runs: 1 done, 1 error, 1 running, 20 waiting" in text
    assert ["OrthoNorm", "waiting", "waiting", "waiting", "error", "waiting"] in map(str.split, text.splitlines())
    (line,) = (line for line in text.splitlines() if f"▸ {run.run_id}" in line)
    assert line.split()[2:9] == ["120", "of", "200", "35.2", "%", "0", "s"]  # 80 iterations, as fast as the other run
    assert "gpu 3, process" in line
    assert main(["status", SMOKE, "--out", str(out), "--only", "init=lsuv"]) == 0
    totals, others = capsys.readouterr().out.splitlines()[1:3]
    assert (totals, others) == ("5 runs: 1 done, 4 waiting", "1 record of other settings in the folder")


@pytest.mark.parametrize(
    ("words", "code", "message", "written"),
    [
        ("table", 0, "50.0 (n=1)", ["table.md", "table.tex", "table.csv", "runs.csv", "table.json"]),
        ("figures", 0, "weight_spectra is left out: no record has data for it", ["figures/accuracy.png"]),
        ("report", 0, "", ["report/index.html"]),
        ("score", 1, f"{LSUV.run_id} has no predictions\npredictions do not confirm 1 of 1 records\n", []),
        ("sync --dry-run", 0, "would log a report job on 1 finished runs", []),
        ("dashboard --dry-run --entity team", 0, '"entity": "team"', []),
    ],
)
def test_a_command_says_what_it_finds_and_writes(
    capsys: Output, out: Path, words: str, code: int, message: str, written: list[str]
) -> None:
    if words.startswith("dashboard"):
        pytest.importorskip("wandb_workspaces")
    command, *more = words.split()
    assert main([command, SMOKE, "--out", str(out), "--only", "activation=tanh", *more]) == code
    text = capsys.readouterr().out
    assert message in text
    for name in written:
        assert f"wrote {out / name}" in text
        assert (out / name).stat().st_size > 0


def test_report_says_why_its_page_has_no_pairs(capsys: Output, out: Path) -> None:
    for run in Experiment.load(SMOKE).with_settings({"dataset": "folder:gone"}).runs({"activation": "tanh"}):
        path = put(record(run, Options(out)), RunFolder.of(out, run).path)
        (path.parent / "predictions.npz").write_bytes(b"never read")
    command = ["report", SMOKE, "--out", str(out), "--set", "dataset=folder:gone", "--data-dir", "/nowhere"]
    assert main(command) == 0
    reason = "the page has no pairs: the test labels of folder:gone are not in /nowhere; give --data-dir"
    assert capsys.readouterr().out.count(reason) == 1


def test_list_names_what_there_is(capsys: Output, tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / "birds" / part / "a").mkdir(parents=True)
    assert main(["list", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "inits:       lsuv, orthonormal, orthonormal_msra, xavier, msra" in text
    assert "activations: maxout, relu, vlrelu, tanh, sigmoid" in text
    assert f"cifar10 (not in {tmp_path} yet), synthetic, folder:birds" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: Output, command: str) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--out" in text or "--data-dir" in text
    if command not in ("collect", "doctor", "list"):
        assert all(option in text for option in ("FILE", "--out", "--only", "--set"))


def test_words_of_a_command_line() -> None:
    # A parser that gave `lr=1` to the next argument would take it for another output folder.
    words = ["--set", "seed=0", "lr=1", "--set", "width=2", "--out", "here"]
    _, arguments = parse(["matrix", SMOKE, *words, "--slurm.gpus-per-node=2", "--launcher", "slurm"])
    assert arguments["selection"] == Selection(out=Path("here"), set=("seed=0", "lr=1", "width=2"))
    assert arguments["resources"].slurm == {"gpus-per-node": "2"}


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(capsys: Output) -> None:
    assert main([]) == 2
    assert "Usage: replicate COMMAND" in capsys.readouterr().out

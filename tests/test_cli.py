"""The commands, as a user types them; what takes long is in test_end_to_end.py."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from workers import put, record

from replicate.cli import main, make_parser
from replicate.experiment import Experiment
from replicate.options import Options
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

ROOT = Path(__file__).parents[1]
SMOKE = str(ROOT / "experiments" / "smoke.yaml")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Results of two of the smoke runs: one converged, one failed."""
    lsuv, ortho = Experiment.load(SMOKE).runs({"init": ["lsuv", "orthonormal"], "activation": "tanh"})
    put(record(lsuv, Options(tmp_path)), tmp_path / "runs" / lsuv.run_id)
    failed = replace(record(ortho, Options(tmp_path)), status="error", test_accuracy=None, error="boom")
    put(failed, tmp_path / "runs" / ortho.run_id)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused: exit code 2 and one line on standard error."""
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("replicate: ")
    return line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["matrix", "no.yaml"], "no.yaml: cannot read the experiment file: No such file or directory"),
        (["matrix", SMOKE, "--set", "init=lsvu"], "unknown init 'lsvu' (did you mean 'lsuv'?); choose from: lsuv, "),
        (["matrix", SMOKE, "--set", "activation=swish"], "unknown activation 'swish'; choose from: maxout, "),
        (["matrix", SMOKE, "--set", "dataset=mnist"], "unknown dataset 'mnist'; choose from: cifar10, synthetic, "),
        (
            ["matrix", SMOKE, "--set", "speed=9"],
            "unknown key in --set 'speed' (did you mean 'seed'?); choose from: init, ",
        ),
        (["matrix", SMOKE, "--set", "lr=-1"], "lr = -1 is out of range; give at least 1e-12"),
        (["matrix", SMOKE, "--only", "init=lsuv", "--only", "init=msra"], "--only gives init twice"),
        (["matrix", SMOKE, "--launcher", "cloud"], "unknown launcher 'cloud'; choose from: local"),
        (
            ["matrix", SMOKE, "--step", "grpah"],
            "unknown step 'grpah' (did you mean 'graph'?); choose from: auto, eager",
        ),
        (["matrix", SMOKE, "--wandb", "on"], "unknown --wandb 'on'; choose from: off, offline, online"),
        (["matrix", SMOKE, "--out", "/dev/null/out"], "cannot write to the output folder /dev/null/out: Not a "),
        (
            ["report", SMOKE, "--out", "/dev/null/out"],
            "cannot write /dev/null/out/report: Not a directory",
        ),
        (["run", SMOKE], "gives 23 runs; fix its axes to get one: --set init=… activation=…"),
        (["run", SMOKE, "--set", "init=lsuv"], "gives 5 runs; fix its axes to get one: --set activation=…"),
        (["table", SMOKE, "--out", "nothing-here"], "nothing-here holds no finished run of smoke; fill it with"),
        (["sync", SMOKE, "--out", "nothing-here"], "no W&B key is known on this machine; give one by `wandb login`"),
        (["dashboard", SMOKE], "no W&B key is known on this machine; give one by `wandb login`"),
        (["figures", SMOKE, "--out", "nothing-here"], "nothing-here holds no finished run of smoke; fill it with"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message in refused(capsys, *arguments)
    assert not (tmp_path / "nothing-here").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "cpu", "--devices-per-run", "33"], " has 32 images a batch; give 1 to 32"),
        (["--devices", "no"], "unknown device 'no'; choose from: auto, cpu, mps, or GPU numbers such as 0,1"),
    ],
)
def test_devices_that_do_not_fit_are_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    assert main(["run", SMOKE, "--set", "init=lsuv", "activation=relu", "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_an_unknown_command_or_option_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["train"],
        ["matrix"],
        ["matrix", SMOKE, "--gpus", "4"],
        ["matrix", SMOKE, "--per-device", "x"],
        [],
    ):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert "invalid choice: 'train'" in capsys.readouterr().err


def test_status_tells_what_is_under_way(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    run = Experiment.load(SMOKE).runs({"init": ["lsuv"], "activation": "relu"})[0]
    with acquire(RunFolder(out / "runs" / run.run_id), Owner("gpu 3", 200, iteration=120, test_accuracy=35.25)):
        assert main(["status", SMOKE, "--out", str(out)]) == 0
        text = capsys.readouterr().out
    assert "23 runs: 1 done, 1 error, 1 running, 20 waiting" in text
    (line,) = (line for line in text.splitlines() if f"▸ {run.run_id}" in line)
    assert line.split()[2:9] == ["120", "of", "200", "35.2", "%", "0", "s"]  # 80 iterations, as fast as the other run
    assert "gpu 3, process" in line
    assert main(["status", SMOKE, "--out", str(out)]) == 0
    assert "under way" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "length"), [("90", 90), ("90s", 90), ("1.5m", 90), ("10m", 600), ("2h", 7200), ("1d", 86_400)]
)
def test_a_time_limit_is_read(text: str, length: float) -> None:
    assert make_parser().parse_args(["matrix", SMOKE, "--time-limit", text]).time_limit == length


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time-limit", "0"], "'0' is no length of time; give seconds, or such as 90s, 10m, 2h, 1d"),
        (["--time-limit", "-5m"], "expected one argument"),
        (["--time-limit", "soon"], "'soon' is no length of time"),
        (["--retries", "-1"], "'-1' is no number of times"),
        (["--retries", "x"], "'x' is no number of times; give 0 or more"),
    ],
)
def test_odd_limits_are_refused(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", SMOKE, *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_status(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["status", SMOKE, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "23 runs: 1 done, 1 error, 21 waiting" in text
    (row,) = (line for line in text.splitlines() if line.startswith("OrthoNorm "))
    assert row.split() == ["OrthoNorm", "waiting", "waiting", "waiting", "error", "waiting"]
    assert main(["status", SMOKE, "--out", str(out), "--only", "init=lsuv"]) == 0
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "5 runs: 1 done, 4 waiting",
        "1 record of other settings in the folder",
    ]


def test_table_writes_and_prints(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["table", SMOKE, "--out", str(out), "--only", "activation=tanh"]) == 0
    text = capsys.readouterr().out
    assert "50.0 (n=1)" in text
    for name in ("table.md", "table.tex", "table.csv", "runs.csv", "table.json"):
        assert f"wrote {out / name}" in text
        assert (out / name).stat().st_size > 0


def test_score_names_the_records_without_predictions(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["score", SMOKE, "--out", str(out), "--only", "activation=tanh"]) == 1
    (lsuv,) = Experiment.load(SMOKE).runs({"init": "lsuv", "activation": "tanh"})
    assert capsys.readouterr().out.endswith(
        f"\n{lsuv.run_id} has no predictions\npredictions do not confirm 1 of 1 records\n"
    )


def test_figures_writes_files(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["figures", SMOKE, "--out", str(out)]) == 0
    assert (out / "figures" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {out / 'figures' / 'accuracy.png'}" in capsys.readouterr().out


def test_figures_say_what_is_left_out(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["figures", SMOKE, "--out", str(out), "--only", "activation=tanh"]) == 0
    assert "weight_spectra is left out: no record has a layers.json" in capsys.readouterr().out


def test_report_writes_a_page_even_of_nothing(capsys: pytest.CaptureFixture[str], out: Path, tmp_path: Path) -> None:
    assert main(["report", SMOKE, "--out", str(out), "--only", "activation=tanh"]) == 0
    assert f"wrote {out / 'report' / 'index.html'}" in capsys.readouterr().out
    assert "50.0" in (out / "report" / "index.html").read_text()
    empty = tmp_path / "empty"
    assert main(["report", SMOKE, "--out", str(empty)]) == 0
    assert "No run has finished yet" in (empty / "report" / "index.html").read_text()


def test_report_says_why_it_has_no_pairs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for run in Experiment.load(SMOKE).with_settings({"dataset": "folder:gone"}).runs({"activation": "tanh"}):
        folder = tmp_path / "runs" / run.run_id
        put(record(run, Options(tmp_path)), folder)
        (folder / "predictions.npz").write_bytes(b"never read")
    command = ["report", SMOKE, "--out", str(tmp_path), "--set", "dataset=folder:gone", "--data-dir", "/nowhere"]
    assert main(command) == 0
    reason = "the page has no pairs: the test labels of folder:gone are not in /nowhere; give --data-dir"
    assert capsys.readouterr().out.count(reason) == 1


def test_sync_says_what_it_would_upload(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    assert main(["sync", SMOKE, "--out", str(out), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "would log a report job on 1 finished runs" in text
    assert "0 offline W&B runs to upload, 0 uploaded before" in text


def test_dashboard_prints_what_it_would_save(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", SMOKE, "--dry-run", "--entity", "team"]) == 0
    assert json.loads(capsys.readouterr().out)["entity"] == "team"


def test_list_names_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for part in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "birds" / part / kind).mkdir(parents=True)
    assert main(["list", "--data-dir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "inits:       lsuv, orthonormal, orthonormal_msra, xavier, msra" in text
    assert "activations: maxout, relu, vlrelu, tanh, sigmoid" in text
    assert f"cifar10 (not in {tmp_path} yet), synthetic, folder:birds" in text


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        "matrix",
        "run",
        "status",
        "table",
        "figures",
        "report",
        "verify",
        "sync",
        "dashboard",
        "list",
    ):
        with pytest.raises(SystemExit) as caught:
            main([command, "--help"])
        assert caught.value.code == 0
        text = capsys.readouterr().out
        assert "--" in text
        if command != "list":
            assert all(option in text for option in ("FILE", "--out", "--only", "--set"))

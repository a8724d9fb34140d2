"""The commands, as a user types them; what takes long is in test_end_to_end.py."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from command_lines import parse
from permissions import restricted
from workers import ended, put, record

from replicate import carry_out
from replicate.cli import COMMANDS, checked_words, main
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
        ("matrix", "FILE is missing; give an experiment file, such as experiments/smoke.yaml"),
        (
            "matrix FILE --batch-size 9",
            "unknown option --batch-size; it is a setting of the runs: --set batch_size=VALUE",
        ),
        ("doctor --seed 9", "Unknown option: --seed."),
        ("matrix FILE --set learning_rate=1", "unknown key in --set 'learning_rate' (did you mean 'lr'?)"),
        ("matrix FILE --outt x", "Unknown option: --outt. Did you mean --out?"),
        ("matrix FILE --set", "--set needs a value"),
        ("matrix FILE --out", "--out needs a value"),
        ("matrix FILE --slurm gpus", "--slurm needs a name, such as --slurm.NAME gpus"),
        ("matrix FILE --data here", "Unknown option: --data. Did you mean --data-dir?"),
        ("matrix FILE --per-device two", "--per-device must be a whole number, not 'two'"),
        ("matrix FILE --per-device 1.9", "--per-device must be a whole number, not '1.9'"),
        ("matrix FILE --retries 1.5", "--retries must be a whole number, not '1.5'"),
        ("verify FILE --seed 0.5", "--seed must be a whole number, not '0.5'"),
        ("matrix FILE --checkpoint-seconds x", "--checkpoint-seconds must be a number, not 'x'"),
        ("matrix FILE --step grph", "unknown --step 'grph' (did you mean 'graph'?); choose from: auto, eager, graph"),
        ("matrix FILE --wandb off --wandb online", "--wandb is given twice"),
        ("matrix FILE --epochs 1", "unknown option --epochs; it is a setting of the runs: --set iterations=VALUE"),
        ("matrix FILE --set lr=", "--set lr= has no value; give one, or leave it out"),
        ("show", "RUN_ID is missing; see: replicate show --help"),
        ("collect a", "--out is missing; see: replicate collect --help"),
        ("matrix FILE another.yaml", "unexpected argument 'another.yaml'"),
        ("matrx", "unknown command 'matrx' (did you mean 'matrix'?); choose from: matrix, run, "),
        ("collect --out nothing-here", "no folder to merge; give output folders"),
        ("verify FILE --sample 0", "--sample '0' is not a number of runs; give 1 or more, or all"),
        ("matrix FILE --out /dev/null/out", "cannot write to the output folder /dev/null/out: Not a directory; give "),
        ("run FILE", "smoke has 23 runs; fix its axes to get one: --set init=… activation=…"),
        *(
            (
                f"{command} FILE --out nothing-here",
                "nothing-here holds no finished run of smoke; to carry out the runs: ",
            )
            for command in ("table", "figures", "report", "score", "ensemble", "verify")
        ),
        ("table FILE --out= ", "--out is empty; give it a value, or leave it out"),
        ("power FILE --seeds 5 0", "--seeds 0 is out of range; give 1 to 1,000"),
        ("power FILE --tables 0", "--tables 0 is out of range; give 1 to 100,000"),
        ("power FILE --sd -1", "--sd -1 is out of range; give percentage points, such as 0.2"),
        ("power FILE --sd nan", "--sd nan is out of range; give percentage points, such as 0.2"),
        ("power FILE --seeds 2.5", "--seeds must be a whole number, not '2.5'"),
        ("collect a --out EMPTY", "--out is empty; give it a value, or leave it out"),
        ("matrix EMPTY", "an argument is empty; give it a value, or leave it out"),
        ("status FILE --json --watch", "--json prints the state once; leave out --watch"),
        ("show lsuv-relu-s0", "there is no run 'lsuv-relu-s0' in the folders of results/local and results; give"),
        ("diff FILE nothing-here", "results/local/smoke holds no finished run to compare; give two output folders"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([{"FILE": SMOKE, "EMPTY": ""}.get(word, word) for word in words.split()]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert (captured.out, line.startswith("replicate: "), message in line) == ("", True, True)
    assert not (tmp_path / "nothing-here").exists()


def test_what_cannot_be_written_is_one_line_and_exit_code_2(capsys: Output, out: Path) -> None:
    (out / "report").write_text("not a folder")
    assert main(["report", SMOKE, "--out", str(out)]) == 2
    assert (
        f"replicate: cannot write to {out}/report: File exists; give another folder with --to\n"
        == capsys.readouterr().err
    )


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
    assert (totals, others) == ("5 runs: 1 done, 4 waiting", "also in the folder: 1 record with init=orthonormal")


def test_status_as_json(capsys: Output, out: Path) -> None:
    assert main(["status", SMOKE, "--json", "--out", str(out), "--only", "activation=tanh"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert [state["runs"][name] for name in ("expected", "finished", "errors", "waiting")] == [4, 1, 1, 2]


def test_show_and_diff(capsys: Output, out: Path) -> None:
    assert main(["show", LSUV.run_id[:-3], "--out", str(out), "--data-dir", "elsewhere"]) == 0
    text = capsys.readouterr().out
    assert f"{LSUV.run_id} in {out}" in text.replace("\n", "", 1)
    assert main(["show", ORTHO.run_id, "--out", str(out)]) == 0
    assert "boom" in capsys.readouterr().out
    assert main(["diff", str(out), str(out)]) == 0
    assert ["LSUV", "×", "tanh", "50.0", "(n=1)", "50.0", "(n=1)", "+0.00"] in map(
        str.split, capsys.readouterr().out.splitlines()
    )


def test_diff_of_an_experiment_file_takes_its_runs_only(
    capsys: Output, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other = replace(LSUV, lr=0.5)
    for run in (LSUV, other):
        put(record(run, Options(out)), RunFolder.of(Path("results/local/smoke"), run).path)
    assert main(["diff", "results/local/smoke", str(out)]) == 2
    assert "the runs of LSUV × tanh differ in lr" in capsys.readouterr().err
    assert main(["diff", SMOKE, str(out)]) == 0
    assert "A: results/local/smoke: 1 finished run, " in capsys.readouterr().out


def test_more_seeds_are_in_the_table_and_in_a_comparison(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = Path(SMOKE).read_text().partition("\ntable:")[0].replace("name: smoke", "name: more")
    Path("more.yaml").write_text(f"{text}\ntable:\n  more_seeds: [3, 7]\n")
    for seed in (0, 3, 8):
        run = replace(LSUV, seed=seed)
        put(record(run, Options(tmp_path)), RunFolder.of(Path("results/local/more"), run).path)
    assert main(["table", "more.yaml", "--verbose", "--only", "activation=tanh"]) == 0
    assert "51.5 ± 2.1 (n=2)" in capsys.readouterr().out
    assert main(["table", "more.yaml", "--verbose", "--only", "activation=tanh", "seed=0"]) == 0
    assert "50.0 (n=1)" in capsys.readouterr().out
    assert main(["diff", "more.yaml", "more.yaml"]) == 0
    assert "2 finished runs" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_bash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    script = tmp_path / "completion"
    assert main(["--install-completion", "--shell", "bash", "--output", str(script)]) == 0
    assert str(script) in (tmp_path / ".bashrc").read_text()
    code = '. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _replicate; echo "${COMPREPLY[*]}"'

    def complete(*words: str) -> list[str]:
        done = subprocess.run(["bash", "-c", code, script, *words], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert complete("replicate", "s") == [name for name in COMMANDS if name.startswith("s")]
    assert complete("replicate", "status", SMOKE, "--js") == ["--json"]
    assert complete("replicate", "matrix", SMOKE, "--launcher", "") == ["local", "slurm", "ray"]


@pytest.mark.parametrize(
    ("words", "code", "message", "written"),
    [
        ("table", 0, "50.0", ["table.md", "table.tex", "table.csv", "runs.csv", "table.json"]),
        ("table --verbose", 0, "50.0 (n=1)", ["table.md"]),
        ("figures", 0, "Left out, because no record has data for them: ", ["figures/accuracy.png"]),
        ("report", 0, "", ["report/index.html"]),
        ("power --sd 0.2 --seeds 5 --tables 9", 0, "Xavier is the best initialisation for tanh", []),
        ("score", 1, f"{LSUV.run_id} has no predictions\npredictions do not confirm 1 of 1 records\n", []),
        ("ensemble", 2, "", []),
        ("sync --dry-run", 0, "would log a report job on 1 finished runs", []),
        ("dashboard --dry-run --wandb-entity team", 0, '"entity": "team"', []),
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
    if written:
        (line,) = (line for line in text.splitlines() if line.startswith("wrote "))
        assert line.startswith(f"wrote {out / written[0]}")
    for name in written:
        assert name in line or len(written) == 1
        assert (out / name).stat().st_size > 0


def test_results_in_a_folder_that_cannot_be_written(
    capsys: Output, out: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    words = [SMOKE, "--out", str(out), "--only", "activation=tanh"]
    there = tmp_path_factory.mktemp("there")
    with restricted(out):
        for command, folder in (("table", ""), ("figures", "/figures"), ("report", "/report")):
            assert main([command, *words]) == 2
            printed, problem = capsys.readouterr()
            assert ("50.0" in printed) == (command == "table")
            assert problem == (
                f"replicate: cannot write to {out}{folder}: Permission denied; give another folder with --to\n"
            )
            assert main([command, *words, "--to", str(there)]) == 0
            assert f"wrote {there}{folder}/" in capsys.readouterr().out
    assert sorted(path.name for path in there.iterdir())[:2] == ["figures", "report"]


def test_a_quiet_table_only_names_its_files(capsys: Output, out: Path) -> None:
    assert main(["table", SMOKE, "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out == f"wrote {out}/table.md, table.tex, table.csv, runs.csv and table.json\n"


def test_in_github_actions_the_table_is_added_to_the_summary_of_the_job(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "summary.md"
    job.write_text("# Before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(job))
    assert main(["table", SMOKE, "--out", str(out)]) == 0
    assert job.read_text() == "# Before\n" + (out / "table.md").read_text()


def test_a_summary_of_the_job_that_cannot_be_written_is_one_line_after_the_table(
    capsys: Output, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/no-such-folder/summary.md")
    assert main(["table", SMOKE, "--out", str(out), "--quiet"]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("wrote ")
    assert captured.err == (
        "replicate: cannot write the summary of the job, GITHUB_STEP_SUMMARY=/no-such-folder/summary.md: "
        "No such file or directory; unset the variable, or make the folder\n"
    )


@pytest.mark.parametrize("command", ["table", "figures", "report"])
def test_the_next_command_and_the_one_in_an_error_can_be_pasted(
    capsys: Output, out: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Pasted into a shell, the command in the error reads the records whose settings differ."""
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert main([command, SMOKE, "--out", str(out), "--set", "lr=0.5"]) == 2
    problem, _, pasted = capsys.readouterr().err.strip().partition("; to read these: ")
    assert problem.endswith(f"{out} holds no finished run of smoke, but 1 record with lr=0.01")
    done = subprocess.run(pasted, shell=True, capture_output=True, text=True, check=True)
    assert f"wrote {out}" in done.stdout
    if command == "table":
        *_, last = done.stdout.splitlines()
        pasted = last.removeprefix("next: ")
        assert "wrote" in subprocess.run(pasted, shell=True, capture_output=True, text=True, check=True).stdout


CLAIM = """
name: small
grid: {init: [lsuv, xavier], activation: [relu], seed: [0, 1, 2]}
run: {dataset: synthetic}
table: {claims: claims.yaml}
"""


def test_check_fails_if_a_claim_is_contradicted(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(CLAIM)
    claims = Path(SMOKE).parents[1] / "results" / "paper" / "claims.yaml"
    (tmp_path / "claims.yaml").write_bytes(claims.read_bytes())
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    for run in Experiment.load(file).runs():  # LSUV is far worse than its rival
        accuracy = (20.0 if run.init == "lsuv" else 90.0) + run.seed / 10
        put(ended(run, accuracy=accuracy), RunFolder.of(out, run).path)
    words = ["matrix", str(file), "--out", str(out), "--devices", "cpu"]
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "20.1 ± 0.1" in text
    assert "next: " in text
    assert main([*words, "--check", "--quiet"]) == 1
    done, contradicted = capsys.readouterr().out.splitlines()
    assert done == f"6 of 6 runs are done, 0 with an error; records: {out}/runs"
    assert contradicted.startswith("contradicted: LSUV")


def test_check_is_refused_before_the_runs_if_there_will_be_no_table(
    capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carry_out, "LocalLauncher", None)  # it would start runs
    words = ["matrix", SMOKE, "--out", str(tmp_path / "out"), "--devices", "cpu", "--check"]
    for more, message in (
        ("--shard 1/2", "--check needs the runs of all parts; leave out --shard"),
        ("--set width=0.125,0.25", "the runs of LSUV × maxout differ in width"),
    ):
        assert main([*words, *more.split()]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_that_make_no_table_are_no_failure_of_a_matrix(capsys: Output, tmp_path: Path) -> None:
    mixed = ["--set", "width=0.125,0.25", "--only", "init=lsuv", "activation=tanh"]
    for run in Experiment.load(SMOKE).with_settings({"width": [0.125, 0.25]}).runs({"init": "lsuv"}):
        put(ended(run), RunFolder.of(tmp_path, run).path)
    for more, lines in (([], 1), (["--quiet"], 0)):
        assert main(["matrix", SMOKE, "--out", str(tmp_path), "--devices", "cpu", *mixed, *more]) == 0
        assert capsys.readouterr().out.count("no table: the runs of LSUV × tanh differ in width") == lines


def test_the_command_in_an_error_agrees_with_only_and_reads_finished_runs(capsys: Output, out: Path) -> None:
    """What --only rules out, --set must not ask for; runs that ended in an error make no table."""
    for more in ("--only init=msra", "--only init=orthonormal --set seed=1"):
        assert main(["table", SMOKE, "--out", str(out), *more.split()]) == 2
        assert "; to carry out the runs: " in capsys.readouterr().err
    assert main(["table", SMOKE, "--out", str(out), "--only", "activation=tanh", "--set", "seed=1"]) == 2
    assert "; to read these: " in capsys.readouterr().err
    shutil.rmtree(RunFolder.of(out, LSUV).path)
    assert main(["table", SMOKE, "--out", str(out), "--set", "seed=1"]) == 2
    assert "holds no finished run of smoke; to carry out the runs: " in capsys.readouterr().err


def test_records_of_another_experiment_are_named_in_the_error(capsys: Output, out: Path) -> None:
    assert main(["table", str(Path(SMOKE).with_name("table3.yaml")), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "but 1 record that differs in width, dataset, " in error
    assert "; to carry out the runs: " in error


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
    assert "inits:          lsuv, orthonormal, orthonormal_msra, xavier, msra" in text
    assert "activations:    maxout, relu, vlrelu, tanh, sigmoid" in text
    assert "preprocessings: gcn-mean-image, gcn, none" in text
    missing = ", ".join(f"{name} (not in {tmp_path} yet)" for name in ("cifar10", "cifar100", "mnist"))
    assert f"{missing}, synthetic, folder:birds" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(capsys: Output, command: str) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert command in ("diff", "check-init") or "--out" in text or "--data-dir" in text
    if command not in ("show", "diff", "collect", "check-init", "doctor", "list"):
        assert all(option in text for option in ("FILE", "--out", "--only", "--set", "--plugin"))


def test_words_of_a_command_line() -> None:
    # A parser that gave `lr=1` to the next argument would take it for another output folder.
    words = ["--set", "seed=0", "lr=1", "--set", "width=2", "--out", "here"]
    _, arguments = parse(["matrix", SMOKE, *words, "--slurm.gpus-per-node=2", "--launcher", "slurm"])
    assert arguments["selection"] == Selection(out=Path("here"), set=("seed=0", "lr=1", "width=2"))
    assert arguments["resources"].slurm == {"gpus-per-node": "2"}


def test_the_home_folder_is_known_where_the_shell_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", r"/home\1")
    words = ["--out=~/x", "~", "~/a b", "--set", "dataset=~/c", "~other/x", "--to", "a~/b"]
    expected = [r"--out=/home\1/x", r"/home\1", r"/home\1/a b", "--set", "dataset=~/c", "~other/x", "--to", "a~/b"]
    assert checked_words(words) == expected


def test_a_reader_that_has_read_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    for words in (["list"], ["list", "--help"]):  # printed by Python, and by Rich
        command = [sys.executable, "-m", "replicate", *words]
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")
    os.close(write)


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(capsys: Output) -> None:
    assert main([]) == 2
    assert "Usage: replicate COMMAND" in capsys.readouterr().out

"""One run on the terminal, and the command that repeats it."""

import io
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_lines import parse
from made_up_records import fill, make_result
from rich.console import Console
from workers import put

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.options import DATA_DIR
from replicate.report.show import find_run, repeat_command, show
from replicate.run import Run
from replicate.store.result import Attempt
from replicate.store.run_folder import RunFolder

FILE = """
name: small
grid: {init: [lsuv, msra, xavier], activation: [tanh, maxout], seed: [0, 1]}
exclude: [{init: xavier, activation: maxout}]
run: {dataset: synthetic, iterations: 100, milestones: [], batch_size: 32}
overrides: [{when: {init: msra, activation: maxout}, set: {lr: 0.001, weight_decay: 1e-5}}]
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment in a checkout, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/small.yaml").write_text(FILE)
    return Experiment.load("experiments/small.yaml")


def shown(folder: RunFolder, width: int = 80) -> str:
    text = io.StringIO()
    show(folder, DATA_DIR, Console(file=text, width=width))
    return text.getvalue()


@pytest.fixture(autouse=True)
def _called_as_replicate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["replicate"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lr": 0.01},  # undoes the override, to the default
        {"seed": 7, "iterations": 9000, "milestones": [40, 60], "clip_norm": 35.0, "mirror": False},
        {"dataset": "folder:my-images", "weight_decay": 1e-5, "milestones": [50]},
    ],
)
@pytest.mark.parametrize("status", ["", "error"])
def test_the_command_selects_exactly_this_run(small: Experiment, changes: dict[str, Any], status: str) -> None:
    for run in small.with_settings(changes).runs():
        result = make_result(run, None if status else 90.0, status, options={"experiment": "small"})
        words = shlex.split(repeat_command(result, Path("my results"), Path("~/data")))
        assert words[0] == "replicate"
        name, arguments = parse(words[1:])
        selected = Selected.load(arguments["file"], arguments["selection"])
        assert [one.run_id for one in selected.runs] == [run.run_id]
        assert (name, selected.out) == ("run" if status else "verify", Path("my results"))
        assert arguments["selection"].data_dir == Path("~/data")


def test_the_command_is_short_and_names_no_default(small: Experiment) -> None:
    result = make_result(small.runs()[0], 90.0, options={"experiment": "small"})
    expected = "replicate verify experiments/small.yaml --set init=lsuv activation=tanh seed=0"
    assert repeat_command(result, Path("results/local/small"), DATA_DIR) == expected


@pytest.mark.parametrize("name", ["gone", "../experiments/small", "small;", None, 1])
def test_no_command_without_an_experiment_file(small: Experiment, name: Any) -> None:
    result = make_result(small.runs()[0], 90.0, options={"experiment": name})
    assert repeat_command(result, Path("out"), DATA_DIR) == ""


def test_no_command_from_a_grid_that_excludes_the_run(small: Experiment) -> None:
    result = make_result(Run("xavier", "maxout"), 90.0, options={"experiment": "small"})
    assert repeat_command(result, Path("out"), DATA_DIR) == ""


def test_what_is_shown_of_a_run(small: Experiment, tmp_path: Path) -> None:
    (run,) = small.with_settings({"width": 0.5}).runs({"init": "lsuv", "activation": "maxout", "seed": 1})
    (result,) = fill(tmp_path, [run], points=20)
    init = [{**entry, "variance": 1.0, "converged": True} for entry in result.init]
    init[3] |= {"variance": 4.0, "converged": False, "tries": 20}
    init[6] |= {"variance": None}
    history: list[Attempt] = [{"attempt": 1, "when": "yesterday", "reason": "out of memory"}]
    known = {"init": init, "history": history, "set_aside": ["checkpoint.pt.set-aside-1: it was damaged"]}
    folder = RunFolder(put(replace(result, **known), RunFolder.of(tmp_path, run).path).parent)
    text = shown(folder)
    lines = text.splitlines()
    assert len(lines) <= 40
    assert f"converged, test accuracy {result.test_accuracy:.2f} %, training loss 0.25, 100 of 100" in text
    settings = "width 0.5, dataset synthetic, batch_size 32, iterations 100, milestones none; otherwise the defaults"
    assert settings in " ".join(text.split())
    assert "The images are generated, so these numbers mean nothing." in text
    assert "1 failed attempt before; out of memory" in text
    assert "checkpoint.pt.set-aside-1: it was damaged" in text
    assert "curve.csv, layers.json, predictions.npz, result.json" in text
    init_line = (
        "19 layers; 37 of 38 variances reached the tolerance; farthest from variance 1 afterwards: conv2 (1 to 4)"
    )
    assert init_line in " ".join(text.split())
    at = next(index for index, line in enumerate(lines) if line.startswith("iteration "))
    rows = [line.split() for line in lines[at + 1 : at + 7]]
    assert [row[0] for row in rows] == ["5", "25", "45", "60", "80", "100"]
    assert rows[-1] == ["100", "0.01", "0.1", "0.11", f"{result.test_accuracy:.4g}"]
    assert lines[-2:] == [
        "to repeat it and compare:",
        "no file in experiments/ gives this run; use the experiment file that it was made from",
    ]


def test_an_error_is_shown_as_text_with_the_end_of_the_log(small: Experiment, tmp_path: Path) -> None:
    (run, *_) = small.runs()
    traceback = "\n".join([*map(str, range(100, 200)), "ValueError: \x1b[2J[red]no\u202e"])
    options = {"experiment": "small"}
    result = make_result(run, None, "error", error=traceback, options=options, versions={"a": "[bold]"})
    folder = RunFolder(put(result, RunFolder.of(tmp_path, run).path).parent)
    folder.log.write_bytes(b"old\n" * 50 + b"last \xff\x1b[2J\n")
    (folder.path / "odd\x1b").touch()
    text = shown(folder, width=60)
    assert not {"\x1b", "\u202e"} & set(text)
    assert r"[red]no\u202e" in text
    assert "last \ufffd\\x1b[2J" in text
    assert ("195" in text, "190" in text) == (True, False)
    command = f"replicate run experiments/small.yaml --out {tmp_path} --set init=lsuv activation=tanh seed=0"
    assert text.splitlines()[-1] == command  # in one line, however narrow the terminal is


def test_a_run_is_found_by_the_beginning_of_its_run_id(small: Experiment) -> None:
    runs = {run.run_id: run for run in small.runs()}
    for out in ("results/local/small", "results/other"):
        for run in runs.values() if out == "results/other" else [*runs.values()][:1]:
            RunFolder.of(Path(out), run).path.mkdir(parents=True)
    first, *_, last = runs
    assert find_run(last, None).path == Path("results/other/runs", last)
    assert find_run(last[:-4], None).run_id == last
    assert find_run(first, Path("results/local/small")).path == Path("results/local/small/runs", first)
    with pytest.raises(UsageError, match=r"matches 2 runs: results/local/small/runs/.*, results/other/runs/.*--out"):
        find_run(first, None)
    with pytest.raises(UsageError, match=r"'lsuv' matches 5 runs: .*, …; give the whole run_id"):
        find_run("lsuv", None)
    with pytest.raises(UsageError, match="there is no run 'y' in the folders of results/local and results; give"):
        find_run("y", None)
    with pytest.raises(UsageError, match=r"there is no run '\*' in results/other"):
        find_run("*", Path("results/other"))


def test_a_run_without_a_record_is_refused(small: Experiment, tmp_path: Path) -> None:
    folder = RunFolder.of(tmp_path, small.runs()[0])
    folder.path.mkdir(parents=True)
    with pytest.raises(UsageError, match="has no record yet"):
        shown(folder)
    folder.result.write_text("{")
    with pytest.raises(UsageError, match=r"result\.json: not a whole result"):
        shown(folder)

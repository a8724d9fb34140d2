"""Attacks by files from elsewhere, most through the commands: nothing is carried out, nothing written outside."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from workers import put, record

from replicate.cli import main
from replicate.data.cache import remember
from replicate.data.sources import load
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.options import Options
from replicate.report.render import escape_markdown
from replicate.run import Run
from replicate.store.files import escape_control_chars
from replicate.store.run_folder import collect

EXPERIMENT = """
name: small
grid: {init: [lsuv, msra], activation: [tanh]}
run: {dataset: synthetic, width: 0.125, batch_size: 16, iterations: 4, milestones: [], precision: 32-true}
"""
CLEAR_SCREEN, RIGHT_TO_LEFT = "\x1b[2J", "\u202e"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture
def out(file: Path, tmp_path: Path) -> Path:
    """Records of the experiment's two runs."""
    folder = tmp_path / "out"
    for run in Experiment.load(file).runs():
        put(record(run, Options(folder)), folder / "runs" / run.run_id)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert escape_control_chars(line) == line
    return line


def matrix(file: Path, out: Path) -> tuple[str | Path, ...]:
    return ("matrix", file, "--out", out, "--wandb", "off", "--devices", "cpu")


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Files that are none


def test_records_that_are_pipes_or_huge_are_unreadable_records(file: Path, out: Path) -> None:
    runs = Experiment.load(file).runs()
    pipe, huge = (out / "runs" / run.run_id / "result.json" for run in runs)
    pipe.unlink()
    os.mkfifo(pipe)
    with huge.open("ab") as stream:
        stream.truncate(10**12)  # a hole, without a byte on the disk
    found = collect(out, runs)
    assert found.results == {}
    assert set(found.bad) == {pipe, huge}


def test_an_experiment_that_is_a_pipe_or_huge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "it is not a plain file" in refused(capsys, "status", tmp_path / "pipe.yaml")
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(10**12)
    assert "and 1,000,000 are the most" in refused(capsys, "status", tmp_path / "huge.yaml")


# Experiment files


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: !!python/object/apply:os.system [touch sprung]", "could not determine a constructor"),
        ("name: ../../elsewhere\ngrid: {init: [lsuv]}", "name must be a plain word"),
        (f"name: {'a' * 101}\ngrid: {{init: [lsuv]}}", "name must be a plain word"),
        ('name: "a\\nb"\ngrid: {init: [lsuv]}', "name must be a plain word"),
        (f'name: "{CLEAR_SCREEN!s}"'.replace("\x1b", "\\e") + "\ngrid: {init: [lsuv]}", r"not '\x1b[2J'"),
        ("name: '[red]x[/red]'\ngrid: {init: [lsuv]}", "name must be a plain word"),
        ("grid: {init: [lsuv], activation: [relu]}\nrun: {dataset: 'folder:../x'}", "unknown dataset 'folder:../x'"),
        ("grid: {init: [lsuv], activation: [relu]}\nrun: {dataset: 'folder:/etc'}", "unknown dataset 'folder:/etc'"),
        ("grid: {init: [lsuv]}\ntable: {reference: /etc/passwd}", "leads out of the project"),
        ("grid: {init: [lsuv]}\ntable: {reference: ../secret.csv}", "leads out of the project"),
        ("grid: {init: [lsuv]}\ntable: {reference: etc/passwd}", "in no folder above"),
        ("grid: {init: [lsuv]}\ntable: {claims: proc/self/environ}", "in no folder above"),
        (
            "grid: {"
            + ", ".join(f"{axis}: [{','.join(map(str, range(1, 33)))}]" for axis in ("seed", "lr", "pad", "width"))
            + "}",
            "the grid has 1,048,576 runs, and 100,000 are the most",
        ),
        ("grid: &a {init: *a}", "an alias stands for itself"),
        ("[" * 100_000, "not a YAML file"),
    ],
)
def test_a_hostile_experiment_file_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(text)
    line = refused(capsys, "status", tmp_path / "x.yaml")
    assert message in line
    assert len(line) < 2100
    assert [path.name for path in tmp_path.iterdir()] == ["x.yaml"]


def test_names_that_are_odd_but_harmless(
    file: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a b", 'it\'s "q"', "[red]", "ünïcode 図", "-x", "%s{}", f"esc{CLEAR_SCREEN}", "two\nlines"):
        odd = tmp_path / name / "[" / "red]"  # "[/red]" within a path
        odd.parent.mkdir(parents=True)
        out.rename(odd)
        assert main(["status", str(file), "--out", str(odd)]) == 0
        captured = capsys.readouterr()
        assert "2 runs: 2 done" in captured.out
        assert CLEAR_SCREEN not in captured.out
        assert main(["table", str(file), "--out", str(odd)]) == 0
        capsys.readouterr()
        odd.rename(out)


# Symbolic links in an output folder


@pytest.mark.parametrize("what", ["runs", "folder", "log.txt", ".checkpoint.pt.tmp", "result.json", "wandb"])
def test_nothing_is_written_through_a_link(
    file: Path, tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    run = Experiment.load(file).runs()[0]
    folder = out / "runs" / run.run_id
    link = {"runs": out / "runs", "folder": folder}.get(what, folder / what)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim if what in ("runs", "folder", "wandb") else victim / "precious")
    assert f"{link} is a symbolic link, and nothing is written through one" in refused(capsys, *matrix(file, out))
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert (victim / "precious").read_text() == "mine"


def test_reading_through_a_link_does_no_harm(file: Path, out: Path, tmp_path: Path) -> None:
    run, other = Experiment.load(file).runs()
    result = out / "runs" / run.run_id / "result.json"
    result.unlink()
    result.symlink_to(out / "runs" / other.run_id / "result.json")
    found = collect(out, [run, other])
    assert list(found.results) == [other.run_id]
    assert "whose settings give" in found.bad[result] or "holds run" in found.bad[result]


def test_the_folder_of_reruns_may_be_no_link(
    file: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "victim").mkdir()
    (out / "verify").symlink_to(tmp_path / "victim")
    assert "verify is a symbolic link" in refused(capsys, "verify", file, "--out", out, "--devices", "cpu")


# Text in records: terminals, Markdown, LaTeX, spreadsheets


HOSTILE = (
    f'=HYPERLINK("x") {CLEAR_SCREEN}{RIGHT_TO_LEFT}[red]<script>alert(1)</script> | ![x](http://x) \\input{{x}} \ud800'
)


def test_a_hostile_error_text_shows_as_text(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Experiment.load(file).runs()[1]
    path = out / "runs" / run.run_id / "result.json"
    rewrite(path, status="error", test_accuracy=None, error=f"Traceback\n{HOSTILE}")
    assert main(["status", str(file), "--out", str(out)]) == 0
    assert main(["table", str(file), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert main(["report", str(file), "--out", str(out)]) == 0
    page = (out / "report" / "index.html").read_text()
    assert "<script>alert" not in page
    names = ("table.md", "table.tex", "table.csv", "runs.csv")
    for text in (shown, *((out / name).read_text() for name in names)):
        assert not {"\x1b", RIGHT_TO_LEFT} & set(text)
        assert "<script" not in text.replace("\\<", "") or text.startswith("run_id")
        assert not re.search(r"(^|,|\")=HYPERLINK", text)
    assert r"\\x1b\[2J" in (out / "table.md").read_text()


def test_a_hostile_label_is_no_record(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Experiment.load(file).runs()[1]
    path = out / "runs" / run.run_id / "result.json"
    for field in ("data_label", "device", "commit", "fingerprint", "status", "finished"):
        before = path.read_text()
        rewrite(path, **{field: HOSTILE})
        assert list(collect(out, [run]).bad) == [path]
        assert main(["table", str(file), "--out", str(out)]) == 0
        assert "\x1b" not in capsys.readouterr().out
        path.write_text(before)


def test_a_label_with_markup_is_escaped(file: Path, out: Path) -> None:
    label = "50% of $x_1$ & <b>#1</b> \\input{secret} `rm`"
    for path in out.glob("runs/*/result.json"):
        rewrite(path, data_label=label, device="=1+1")
    assert main(["table", str(file), "--out", str(out)]) == 0
    assert escape_markdown(label) in (out / "table.md").read_text()
    latex = (out / "table.tex").read_text()
    assert r"50\% of \$x\_1\$ \& $<$b$>$\#1" in latex
    assert r"\input{secret}" not in latex
    assert ",'=1+1," in (out / "runs.csv").read_text()
    assert main(["figures", str(file), "--out", str(out)]) == 0  # two dollars are no formula


def test_the_record_of_another_run_is_not_taken(out: Path, tmp_path: Path) -> None:
    run = Run("lsuv", "relu", 7, dataset="synthetic")
    for run_id in ("../../../../tmp/evil", "", CLEAR_SCREEN, 7, ["x"] * 10**5):
        path = put(record(run, Options(tmp_path)), out / "runs" / run.run_id)
        rewrite(path, run_id=run_id)
        (reason,) = collect(out, [run]).bad.values()
        assert "holds run" in reason


def test_a_curve_of_nonsense_is_no_curve(file: Path, out: Path) -> None:
    curves = ["iteration,epoch,test_accuracy\ninf,1,50\nnan,nan,nan\n1e999,0,5\n", "\x00\x1b\n", "a" * 200_000 + '"']
    for text in curves:
        for folder in (out / "runs").iterdir():
            (folder / "curve.csv").write_text(text)
        assert main(["figures", str(file), "--out", str(out)]) == 0


# Data folders and the cache


def test_a_name_that_leads_out_of_the_data_folder(tmp_path: Path) -> None:
    for name in ("folder:..", "folder:../x", "folder:/etc", "folder:", "folder:a/b", "folder:a\n"):
        with pytest.raises(UsageError, match="unknown dataset"):
            load(name, tmp_path)


def test_a_line_break_in_a_name_would_forge_the_fingerprint(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / "odd" / split / kind).mkdir(parents=True)
            (tmp_path / "odd" / split / kind / "1.png").touch()
    (tmp_path / "odd" / "train" / "a" / "x\ny.png").touch()
    with pytest.raises(UsageError, match=r"holds 'x\\ny.png', whose name has a line break"):
        load("folder:odd", tmp_path)


def test_a_huge_image_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    for split in ("train", "test"):
        for kind in ("a", "b"):
            path = tmp_path / "big" / split / kind / "1.png"
            path.parent.mkdir(parents=True)
            with path.open("wb") as stream:
                stream.truncate(10**12)
    with pytest.raises(UsageError, match="4,000,000 are the most"):
        load("folder:big", tmp_path)


@pytest.mark.parametrize("kind", ["secret", "device", "pipe", "loop"])
def test_what_is_no_image_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "secret").write_text("mine")
    for place in ("train/a", "train/b", "test/a", "test/b"):
        path = tmp_path / "odd" / place / "1.png"
        path.parent.mkdir(parents=True)
        if kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to({"secret": tmp_path / "secret", "device": Path("/dev/zero"), "loop": path}[kind])
    with pytest.raises(UsageError, match=r"1\.png (cannot be read as an image|is not a PNG or JPEG file)") as caught:
        load("folder:odd", tmp_path)
    assert "mine" not in str(caught.value)


def test_data_sets_with_odd_names_are_not_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fine", f"esc{CLEAR_SCREEN}", "a b", "-x", "[red]"):
        for split in ("train", "test"):
            (tmp_path / name / split).mkdir(parents=True)
    assert main(["list", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.rstrip().endswith("synthetic, folder:fine")


def test_a_cache_entry_names_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    images = np.zeros((1, 3, 32, 32), dtype=np.uint8)
    remember("key", lambda: ("content", images, {}))
    (tmp_path / "cache" / "arrays" / "content.npy").rename(tmp_path / "elsewhere.npy")
    rewrite(tmp_path / "cache" / "index" / "key.json", array="../../elsewhere.npy")
    made: list[bool] = []
    remember("key", lambda: made.append(True) or ("content", images, {}))  # type: ignore[func-returns-value]
    assert made


def test_an_error_with_escapes_in_it_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    line = refused(capsys, "status", tmp_path / f"x{CLEAR_SCREEN}\n.yaml")
    assert r"x\x1b[2J\n.yaml: cannot read the experiment file" in line


def test_names_of_runs_are_made_of_known_words() -> None:
    run = Run("lsuv", "relu", dataset="folder:a.b_c-d")
    assert re.fullmatch(r"[a-z_]+-[a-z]+-s\d+-[0-9a-f]{8}", run.run_id)
    with pytest.raises(UsageError):
        replace(run, init="../x")

"""Files from elsewhere: nothing in them is executed, nothing is written outside, and terminals show them as text."""

import contextlib
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import fill

from replicate.cli import main
from replicate.experiment import Experiment
from replicate.store.files import escape_control_chars

EXPERIMENT = """
name: small
grid: {init: [lsuv, msra], activation: [tanh]}
run: {dataset: synthetic, width: 0.125, batch_size: 16, iterations: 4, milestones: [], precision: 32-true}
"""
CLEAR_SCREEN, RIGHT_TO_LEFT = "\x1b[2J", "\u202e"
HOSTILE = (
    f'=HYPERLINK("x") {CLEAR_SCREEN}{RIGHT_TO_LEFT}[red]<script>alert(1)</script> | ![x](http://x) \\input{{x}} \ud800'
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment file and an output folder for all examples."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "small.yaml").write_text(EXPERIMENT)
    fill(folder / "out", Experiment.load(folder / "small.yaml").runs(), points=2)
    return folder


@pytest.fixture
def file(shared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(shared / "small.yaml", tmp_path))


@pytest.fixture
def out(shared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shared / "out", tmp_path / "out", ignore=shutil.ignore_patterns("layers.json"))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that is refused, and return its one line."""
    assert main([*map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert escape_control_chars(line) == line
    return line


VALUES = [
    *(HOSTILE, f"x{CLEAR_SCREEN}", "50% $x_1$ & <b>#1</b> \\input{x} `rm`", "=1+1", "../../x", "x" * 5000, ""),
    *(-1, 2**63, 10**400, 1e300, float("nan"), True, None, [], {}, [HOSTILE], {HOSTILE: HOSTILE}),
]


def mutated(path: Path, data: st.DataObject) -> bytes:
    """Change a value of a record, or some bytes of any file."""
    content = path.read_bytes()
    if path.suffix == ".json" and data.draw(st.booleans()):
        record = json.loads(content)
        section = record["run"] if "run" in record and data.draw(st.booleans()) else record
        section[data.draw(st.sampled_from(sorted(section)))] = data.draw(st.sampled_from(VALUES))
        return json.dumps(record).encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    return content[:start] + data.draw(st.binary(max_size=20)) + content[end:]


@given(data=st.data())
@settings(max_examples=12)
def test_whatever_changes_in_a_run_commands_end_well_and_show_text(shared: Path, data: st.DataObject) -> None:
    out, before = shared / "out", sorted(shared.iterdir())
    name = data.draw(st.sampled_from(["result.json", "result.json", "curve.csv", "layers.json", "predictions.npz"]))
    path = min(out.glob(f"runs/*/{name}"))
    whole, shown = path.read_bytes(), io.StringIO()
    path.write_bytes(mutated(path, data))
    try:
        with contextlib.redirect_stdout(shown):
            for command in ("status", "table", "report"):
                assert main([command, str(shared / "small.yaml"), "--out", str(out)]) in (0, 2)
            assert main(["show", path.parent.name, "--out", str(out)]) in (0, 2)
            assert main(["diff", str(out), str(out)]) in (0, 2)
    finally:
        path.write_bytes(whole)
    check_texts(out, shown.getvalue())
    assert sorted(shared.iterdir()) == before


def check_texts(out: Path, shown: str) -> None:
    """Check that what was printed and written is harmless."""
    markdown, latex, *csv = [(out / name).read_text() for name in ("table.md", "table.tex", "table.csv", "runs.csv")]
    for text in (shown, markdown, latex, *csv):
        assert not {"\x1b", RIGHT_TO_LEFT} & set(text)
        assert not re.search(r"(^|,|\")=HYPERLINK", text)
    assert not re.search(r"(?<!\\)<script", markdown)
    assert r"\input{x}" not in latex
    assert "<script>alert" not in (out / "report" / "index.html").read_text()


def test_an_error_and_a_label_show_as_text(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = {"data_label": "50% of $x_1$ & <b>#1</b> \\input{x} `rm`", "device": "=1+1"}
    error = {"status": "error", "test_accuracy": None, "error": f"Traceback\n{HOSTILE}"}
    for path, change in zip(sorted(out.glob("runs/*/result.json")), (label | error, label), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | change | {"checksum": None}))
    for command in ("status", "table", "report", "figures"):  # in figures, two dollars are no formula
        assert main([command, str(file), "--out", str(out)]) == 0
    check_texts(out, capsys.readouterr().out)
    assert r"\\x1b\[2J" in (out / "table.md").read_text()
    assert r"50\% of \$x\_1\$ \& $<$b$>$\#1" in (out / "table.tex").read_text()
    assert ",'=1+1," in (out / "runs.csv").read_text()


AXES = ", ".join(f"{axis}: [{','.join(map(str, range(1, 33)))}]" for axis in ("seed", "lr", "pad", "width"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grid: !!python/object/apply:os.system [touch sprung]", "could not determine a constructor"),
        ('name: "\\e[2J"\ngrid: {init: [lsuv]}', r"not '\x1b[2J'"),
        ('grid: {init: [lsuv], activation: [relu]}\nrun: {dataset: "folder:a\\n"}', r"unknown dataset 'folder:a\n'"),
        ("grid: {init: [lsuv]}\ntable: {reference: /etc/passwd}", "leads out of the project"),
        (f"grid: {{{AXES}}}", "1,048,576 runs"),
        ("x" * 2_000_000, "and 50,000 are the most"),
    ],
)
def test_an_experiment_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    line = refused(capsys, "status", path)
    assert message in line
    assert len(line) < 2100
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_odd_but_harmless(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("-x", "ünïcode 図 [red] %s{}", f"esc{CLEAR_SCREEN}", "two\nlines"):
        odd = file.parent / name / "[" / "red]"  # "[/red]" within a path
        odd.parent.mkdir(parents=True)
        out.rename(odd)
        assert main(["status", str(file), "--out", str(odd)]) == 0
        printed = capsys.readouterr().out
        assert "2 runs: 2 done" in printed
        assert CLEAR_SCREEN not in printed
        odd.rename(out)
    line = refused(capsys, "status", file.parent / f"x{CLEAR_SCREEN}\n.yaml")
    assert r"x\x1b[2J\n.yaml: cannot read the experiment file" in line


@pytest.mark.parametrize("name", ["", "RUN", "RUN/log.txt", "RUN/.checkpoint.pt.tmp", "RUN/wandb"])
def test_nothing_is_written_through_a_link(file: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    victim, out = file.parent / "victim", file.parent / "out"
    victim.mkdir()
    (victim / "precious").write_text("mine")
    link = out / "runs" / name.replace("RUN", Experiment.load(file).runs()[0].run_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim / "precious" if "." in name else victim)
    line = refused(capsys, "matrix", file, "--out", out, "--wandb", "off", "--devices", "cpu")
    assert f"{link} is a symbolic link, and nothing is written through one" in line
    assert [path.read_text() for path in victim.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("figures", ["accuracy_by_init.png", "accuracy_by_init.pdf", "captions.md"]),
        ("report", ["index.html", "report.json"]),
    ],
)
def test_no_picture_or_page_is_written_through_a_link(
    file: Path, out: Path, command: str, names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(out / command, ignore_errors=True)
    (victim := file.parent / "victim").mkdir()
    (victim / "precious").write_text("mine")
    (out / command).symlink_to(victim)
    assert f"{out / command} is a symbolic link" in refused(capsys, command, file, "--out", out)
    (out / command).unlink()
    (out / command).mkdir()
    for name in names:
        (out / command / name).symlink_to(victim / "precious")
    assert main([command, str(file), "--out", str(out)]) == 0
    assert {*names} <= {path.name for path in (out / command).iterdir() if not path.is_symlink()}
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"precious": "mine"}


def test_the_folder_of_reruns_may_be_no_link(file: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "verify").symlink_to(file.parent)
    assert "verify is a symbolic link" in refused(capsys, "verify", file, "--out", out, "--devices", "cpu")

"""Files from elsewhere: nothing in them is executed, nothing is written outside, and terminals show them as text."""

import contextlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_records import LABELS, fill
from pydantic_core import to_jsonable_python
from workers import put

from replicate.cli import main
from replicate.experiment import Experiment
from replicate.report import figures, page, render
from replicate.store.files import escape_control_chars
from replicate.store.lease import acquire
from replicate.store.measurements import read_curve, read_layers, read_predictions
from replicate.store.owner import Owner, host_namespace, parse_owner
from replicate.store.result import Attempt, BadRecordError, read_result
from replicate.store.run_folder import RunFolder

EXPERIMENT = """
name: small
grid: {init: [lsuv, msra], activation: [tanh]}
run: {dataset: synthetic, width: 0.125, batch_size: 16, iterations: 4, milestones: [], precision: 32-true}
"""
EXAMPLES = int(os.environ.get("REPLICATE_EXAMPLES", "12"))
CLEAR_SCREEN, RIGHT_TO_LEFT = "\x1b[2J", "\u202e"
PRINTABLE = '=HYPERLINK("x") [red]<script>alert(1)</script> | ![x](http://x) \\input{x}'
HOSTILE = f"{PRINTABLE} {CLEAR_SCREEN}{RIGHT_TO_LEFT}\ud800"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment file and an output folder for all examples."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "small.yaml").write_text(EXPERIMENT)
    fill(folder / "out", Experiment.load(folder / "small.yaml").runs(), points=2)
    return folder


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As above, with every kind of file: a run that converged, one that diverged, a failed one, and two running."""
    folder = tmp_path_factory.mktemp("busy")
    (folder / "small.yaml").write_text(EXPERIMENT.replace("[tanh]", "[tanh, maxout]"))
    converged, failed, running, diverged = Experiment.load(folder / "small.yaml").runs()
    filled = fill(folder / "out", [converged, diverged, failed], points=2)
    made = {"versions": {"torch": "2"}, "environment": {"threads": 1}, "weights_sha256": "ab" * 32}
    parts: list[dict[str, Any]] = [{"from": 0, **made}, {"from": 2, **made}]
    history: list[Attempt] = [{"attempt": 1, "when": "yesterday", "reason": "killed"}]
    error: dict[str, Any] = {"status": "error", "test_accuracy": None, "error": "Traceback\nValueError: x"}
    for result, changes in zip(filled, ({"url": "https://x.org"}, {}, error), strict=True):
        put(
            replace(result, **made, parts=parts, history=history, **changes),
            RunFolder.of(folder / "out", result.run).path,
        )
    for run, place in ((failed, "elsewhere"), (running, host_namespace())):
        assert acquire(RunFolder.of(folder / "out", run), Owner("gpu 3", 4, 2, 50.0, "resuming", place=place))
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


TEXTS = [
    *(
        HOSTILE,
        PRINTABLE,
        f"x{CLEAR_SCREEN}",
        RIGHT_TO_LEFT,
        "50% $x_1$ & <b>#1</b> \\input{x} `rm`",
        "=1+1",
        "../../x",
    ),
    *("\ud800", "two\nlines", "x" * 5000, "unknown", "ab" * 32, "0", ""),
]
NUMBERS = [0, -1, 1, 2**53, 2**63, 10**400, 5e-324, 1e39, 1e300, -0.5, float("nan"), float("inf")]
NESTED = [[], {}, [HOSTILE], {HOSTILE: HOSTILE}, {"x": [[[[[[[1]]]]]]]}, [0] * 2000, {PRINTABLE: {PRINTABLE: 1}}]
VALUES = [*TEXTS, *NUMBERS, *NESTED, True, None]
CELLS = ["", "x", "-1", "0.5", "1e39", "1e308", "9" * 400, "nan", "5e-324", "1_0", '"', CLEAR_SCREEN, "9" * 200_000]


def archive(classes: np.ndarray, digest: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, classes=classes, labels_sha256=digest)
    return file.getvalue()


def billion() -> bytes:
    """An archive of a few bytes whose array claims to have 10^9 elements."""
    header, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9,)})
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("classes.npy", header.getvalue())
        packed.writestr("labels_sha256.npy", header.getvalue())
    return file.getvalue()


DIGEST = np.array("ab" * 32)
ARCHIVES = [
    *(archive(np.full(n, 255, np.uint8), DIGEST) for n in (0, 1, 10_000, 50_000_000)),
    *(archive(array, DIGEST) for array in (np.array(1, np.uint8), np.zeros((2, 2), np.uint8), np.array([None]))),
    archive(np.full(10_000, 65_535, np.uint16), DIGEST),
    archive(np.zeros(3, np.uint8), np.frombuffer(b"\xff" * 256, "<U64").reshape(())),  # no Unicode text
    billion(),
]


def mutated(path: Path, data: st.DataObject) -> bytes:
    """Change a value of a file, at any depth, or some of its bytes."""
    content = path.read_bytes()
    if data.draw(st.booleans()):
        if path.suffix == ".json":
            return mutated_json(json.loads(content), data)
        if path.suffix == ".csv":
            return mutated_csv(content.decode().splitlines(), data)
        return data.draw(st.sampled_from(ARCHIVES))
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 40)) | st.just(len(content)))
    return content[:start] + data.draw(st.binary(max_size=20)) + content[end:]


def mutated_json(record: Any, data: st.DataObject) -> bytes:
    """Replace, add or remove a value of a section at any depth."""
    if "checksum" in record:
        record["checksum"] = None  # it would hide what the reader makes of the rest
    section, inner = record, [record]
    while inner and data.draw(st.booleans()):
        section = data.draw(st.sampled_from(inner))
        inner = [
            one
            for one in (section.values() if isinstance(section, dict) else section)
            if one and isinstance(one, dict | list)
        ]
    keys = [*section, *TEXTS] if isinstance(section, dict) else range(len(section))
    key = data.draw(st.sampled_from(keys))
    if key in (section if isinstance(section, dict) else keys) and data.draw(st.integers(0, 9)) == 0:
        del section[key]
    else:
        section[key] = data.draw(st.sampled_from(VALUES))
    return json.dumps(record).encode()


def mutated_csv(lines: list[str], data: st.DataObject) -> bytes:
    """Replace a cell, and maybe repeat the lines a thousand times."""
    repeated = lines * data.draw(st.sampled_from([0, 0, 0, 1000]))
    at = data.draw(st.integers(0, len(lines) - 1))
    cells = lines[at].split(",")
    cells[data.draw(st.integers(0, len(cells) - 1))] = data.draw(st.sampled_from(CELLS))
    lines[at] = ",".join(cells)
    return "\n".join([*lines, *repeated]).encode()


FILES = ("result.json", "curve.csv", "layers.json", "predictions.npz", "claim/*/owner.json")


@contextlib.contextmanager
def hostile(out: Path, data: st.DataObject, most: int = 8) -> Iterator[list[Path]]:
    """Within, some files of the runs are mutated; yields them."""
    files = sorted(path for name in FILES for path in out.glob(f"runs/*/{name}"))
    chosen = data.draw(st.lists(st.sampled_from(files), min_size=1, max_size=most, unique=True))
    whole = {path: path.read_bytes() for path in chosen}
    changed = {path: mutated(path, data) for path in chosen}
    try:
        for path in chosen:
            path.write_bytes(changed[path])
        yield chosen
    finally:
        for path in chosen:
            path.write_bytes(whole[path])


READERS: dict[str, Callable[[Path], object]] = {
    "result.json": lambda path: replace(read_result(path), error=None, history=[]),  # these hold any text
    "curve.csv": lambda path: read_curve(RunFolder(path.parent), ["test_accuracy"]),
    "layers.json": lambda path: read_layers(RunFolder(path.parent), "3f" * 32),
    "predictions.npz": lambda path: read_predictions(RunFolder(path.parent)).labels_sha256,
    "owner.json": lambda path: parse_owner(path.read_bytes()),
}


@given(data=st.data())
@settings(max_examples=max(200, EXAMPLES), derandomize=True)
def test_whatever_changes_in_a_file_its_reader_says_so_in_one_line_or_reads(busy: Path, data: st.DataObject) -> None:
    with hostile(busy / "out", data, most=1) as (path,):
        try:
            read = READERS[path.name](path)
        except BadRecordError as error:
            read = error.reason
    for leaf in leaves(to_jsonable_python(read)):
        if isinstance(leaf, str):
            assert leaf.isprintable()
            assert len(leaf) <= 1000
        else:
            assert leaf is None or abs(leaf) <= 1e39


def leaves(value: Any) -> Iterator[Any]:
    """The texts and numbers of plain data, keys included."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from leaves(one)
    else:
        yield value


@given(data=st.data())
@settings(max_examples=EXAMPLES, derandomize=True)
def test_whatever_changes_in_runs_commands_end_well_and_show_text(busy: Path, data: st.DataObject) -> None:
    file, out, merged = busy / "small.yaml", busy / "out", busy / "merged"
    before = sorted(busy.iterdir())
    with hostile(out, data):
        shown = run_commands(*([name, file, "--out", out] for name in ("status", "table", "report")))
        shown += run_commands(*(["show", path.name, "--out", out] for path in (out / "runs").iterdir()))
        shown += run_commands(["status", file, "--out", out, "--json"], ["diff", out, out])
        shown += run_commands(["collect", out, "--out", merged])
    check_texts(out, shown)
    shutil.rmtree(merged)
    assert sorted(busy.iterdir()) == before


@given(data=st.data())
@settings(max_examples=max(1, EXAMPLES // 30), derandomize=True)
def test_whatever_changes_in_runs_figures_are_drawn(busy: Path, data: st.DataObject) -> None:
    with hostile(busy / "out", data):
        run_commands(["figures", busy / "small.yaml", "--out", busy / "out"])


environment = cache(render.environment)  # compiles each template once


def lay_out(figure: Any, *_: Any) -> list[Path]:
    """Take the place of saving a figure, of which it is the quick part."""
    figure.draw_without_rendering()
    return []


def run_commands(*commands: list[Any]) -> str:
    """Run commands, and return what they print."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), pytest.MonkeyPatch.context() as patch:
        patch.setattr("replicate.data.labels_at_hand", lambda *_: LABELS)
        patch.setattr(render, "environment", environment)
        patch.setattr(page, "environment", environment)
        patch.setattr(figures, "save", lay_out)
        for command in commands:
            assert main([*map(str, command)]) in (0, 1, 2), command
    assert all(line.isprintable() for line in shown.getvalue().split("\n"))
    return shown.getvalue()


def check_texts(out: Path, shown: str) -> None:
    """Check that what was printed and written is harmless."""
    markdown, latex, *csv = [(out / name).read_text() for name in ("table.md", "table.tex", "table.csv", "runs.csv")]
    for text in (shown, markdown, latex, *csv):
        assert not {"\x1b", RIGHT_TO_LEFT} & set(text)
    assert not any(re.search(r"(^|,|\")=HYPERLINK", text) for text in csv)
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

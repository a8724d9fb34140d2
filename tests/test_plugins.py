"""Initialisations of the user's own: reading their file, the runs that use them, and a matrix from it to the table."""

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread, main_thread
from types import ModuleType

import pytest

from replicate import plugins
from replicate.carry_out import Request, work
from replicate.cli import main
from replicate.commands.common import use_plugins
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.matrix.plan import Selected
from replicate.options import Options, Resources, Selection
from replicate.plugins import Plugin, function_of, load, read_plugin, register
from replicate.run import Run, check_settings
from replicate.store.result import read_result
from replicate.store.run_folder import RunFolder

SCHEME = """
import torch

def my_scheme(shape, generator, negative_slope=0.0):
    \"\"\"Normal with deviation SIZE.

    And more.\"\"\"
    return SIZE * torch.randn(shape, generator=generator)
"""
MODEL = """
def my_model(model, batches, generator):
    for parameter in model.parameters():
        parameter.normal_(0, 0.1, generator=generator)

def _private(shape, *_): ...
def other(x): ...
class Helper: ...
SIZE = 0.1
"""


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    yield
    register([])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SCHEME + MODEL)
    return path


def test_the_public_functions_of_shape_or_model_are_initialisations(file: Path) -> None:
    plugin = read_plugin(file)
    assert plugin.inits == (("my_scheme", "Normal with deviation SIZE."), ("my_model", "my_model"))
    assert plugin.digest == read_plugin(file).digest
    assert pickle.loads(pickle.dumps(plugin)) == plugin
    file.write_text(SCHEME + MODEL + "\n")
    assert read_plugin(file).digest != plugin.digest


WRONG = [
    ("def f(x, y, z): ...", r"has no initialisation: no public `def` of \(shape, generator, negative_slope\)"),
    ("def fan_in(shape): ...", "has no initialisation"),
    ("def _f(shape, *_): ...", "has no initialisation"),
    ("x = 1\ny = (", r"cannot read the plugin .*mine.py: line 2: '\(' was never closed"),
    ("x = '\0'", "cannot read the plugin .*mine.py: source code .* null bytes"),
    (f"x = {'-' * 100_000}1\n", r"cannot read the plugin .*mine.py: [A-Z]\w+"),
    (
        "def MyInit(shape, *_): ...",
        "MyInit is no name of an initialisation; use up to 60 lower-case letters, digits and _",
    ),
    ("def größe(shape, *_): ...", "größe is no name of an initialisation"),
    (f"def {'a' * 61}(shape, *_): ...", "is no name of an initialisation"),
    ("def lsuv(model, *_): ...", "there is an initialisation lsuv already; give yours another name"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_no_plugin_is_refused_in_one_sentence(file: Path, text: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError, match=f"^[^\n]*{message}[^\n]*$"):
        read_plugin(file)


FAILING = [
    ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ("\nx = nothing\n", "line 2: NameError: name 'nothing' is not defined"),
    ("def deep(): return 1 / 0\n\ndeep()\n", "line 1: ZeroDivisionError"),
    ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
]


@pytest.mark.parametrize(("text", "message"), FAILING)
def test_a_file_that_fails_is_refused_with_the_line(file: Path, text: str, message: str) -> None:
    file.write_text(text + "def f(shape, *_): ...")
    with pytest.raises(UsageError, match=f"^cannot import .*mine.py: {message}"):
        load(read_plugin(file))


@pytest.mark.parametrize("change", ["del f", "f = 3", "f = dict", "f = (lambda g: lambda *a: g(*a))(f)"])
def test_a_name_that_is_no_initialisation_any_more_is_refused(file: Path, change: str) -> None:
    file.write_text(f"def f(shape, *_): ...\n{change}")
    with pytest.raises(UsageError, match="f is no function of shape or model"):
        load(read_plugin(file))


def test_the_code_is_that_of_the_start_and_may_hold_classes(file: Path) -> None:
    file.write_text("import dataclasses\n@dataclasses.dataclass\nclass A: x: int = 1\ndef f(shape, *_): return A()")
    plugin = read_plugin(file)
    file.unlink()
    register([plugin])
    found = function_of("f", plugin.digest)(())
    assert found.x == 1
    assert isinstance(sys.modules[type(found).__module__], ModuleType)


def test_a_function_that_exits_is_an_error(file: Path) -> None:
    file.write_text("import sys\n\ndef f(shape, *_): sys.exit(0)\n")
    register([read_plugin(file), read_plugin(file)])  # the same file twice is no contradiction
    with pytest.raises(RuntimeError, match=r"f calls sys\.exit"):
        function_of("f", read_plugin(file).digest)(())


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_only_small_plain_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine.py"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("#" * 1_000_001)
    with pytest.raises(UsageError, match=r"mine\.py: it is no file, or it has more than 1,000,000 bytes"):
        read_plugin(path)


def test_a_run_of_the_package_has_no_plugin() -> None:
    assert Run("lsuv", "relu", plugin=f"sha256:{'0' * 16}") == Run("lsuv", "relu")
    use_plugins(Selection(set=("plugin=null",)))  # without a digest there is nothing to read
    with pytest.raises(UsageError, match="unknown init 'nosuch'"):
        Run("nosuch", "relu")


def test_two_files_may_not_have_the_same_name(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text(SCHEME)
    with pytest.raises(UsageError, match=r"other\.py: my_scheme is in .*mine.py too; rename one of them"):
        register([read_plugin(file), read_plugin(other)])


def test_the_digest_is_part_of_the_identity_of_its_runs_only(file: Path) -> None:
    before = Run("lsuv", "relu").run_id
    with pytest.raises(UsageError, match=r"unknown init 'my_schema'.*; one of your own needs --plugin FILE"):
        Run("my_schema", "relu")
    register([read_plugin(file)])
    with pytest.raises(UsageError, match=r"unknown init 'my_schema' \(did you mean 'my_scheme'\?\)"):
        Run("my_schema", "relu")
    assert check_settings({"init": "my_scheme"}) == {"init": "my_scheme"}
    run = Run("my_scheme", "relu")
    assert run.plugin == read_plugin(file).digest
    assert run.run_id.startswith("my_scheme-relu-s0-")
    assert (Run("lsuv", "relu").run_id, Run("lsuv", "relu").plugin) == (before, None)
    file.write_text(SCHEME + MODEL + "# edited\n")
    register([read_plugin(file)])
    edited = Run("my_scheme", "relu")
    assert edited.run_id != run.run_id
    assert replace(run, seed=0).run_id == run.run_id  # a run keeps the file that it names
    register([])
    assert replace(run, seed=0) == run
    assert Run("my_scheme", "relu", plugin=run.plugin).run_id == run.run_id


def test_a_function_is_found_by_exactly_its_digest(file: Path) -> None:
    plugin = read_plugin(file)
    with pytest.raises(UsageError, match=f"my_model is from a plugin with digest {plugin.digest}; give its file with"):
        function_of("my_model", plugin.digest)
    register([plugin])
    assert function_of("my_model", plugin.digest).__name__ == "my_model"
    with pytest.raises(UsageError, match=f"digest sha256:{'0' * 16}, but .*mine.py has {plugin.digest}"):
        function_of("my_model", f"sha256:{'0' * 16}")


def test_options_carry_plugins_and_records_do_not(file: Path) -> None:
    options = Options(Path("out"), plugins=(read_plugin(file),))
    assert "plugins" not in options.plain()
    assert isinstance(pickle.loads(pickle.dumps(options)).plugins[0], Plugin)


EXPERIMENT = """
name: tiny
grid: {init: [xavier, my_scheme, my_model], activation: [relu], seed: [0]}
run: {dataset: synthetic, width: 0.0625, batch_size: 16, iterations: 24, milestones: [16], precision: 32-true}
"""


def test_from_the_file_to_the_table(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(EXPERIMENT)
    out, own = Path("results/local/tiny"), ["--plugin", "mine.py"]
    resources = ["--devices", "cpu", "--per-device", "1", "--wandb", "off"]

    def records() -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in out.glob("runs/*/result.json")}

    def interrupt() -> None:
        while not list(out.glob("runs/my_scheme-*/result.json")):
            time.sleep(0.02)
        signal.pthread_kill(main_thread().ident or 0, signal.SIGINT)

    Thread(target=interrupt, daemon=True).start()
    assert main(["matrix", "tiny.yaml", *own, *resources]) == 3
    first = records()
    assert {name.partition("-")[0] for name in first} == {"xavier", "my_scheme"}
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert main(["matrix", "tiny.yaml", *own, *resources]) == 0
    assert "table tiny.yaml --plugin mine.py" in capsys.readouterr().out  # the command that comes next
    whole = records()
    assert len(whole) == 3
    assert {name: whole[name] for name in first} == first
    assert main(["verify", "tiny.yaml", *own, "--sample", "all", "--devices", "cpu"]) == 0
    assert "3 runs verified: 3 identical" in capsys.readouterr().out
    assert main(["report", "tiny.yaml", *own]) == 0
    page = (out / "report/index.html").read_text()
    assert "<strong>my_scheme</strong>: Normal with deviation SIZE." in page
    assert "--plugin mine.py" in json.loads((out / "report/report.json").read_text())["command"]

    # without the file: records can be read, and runs not be trained
    digest = read_plugin(file).digest
    file.rename("gone.py")
    (path,) = out.glob("runs/my_model-*/result.json")
    run = read_result(path).run
    assert (run.plugin, run.run_id) == (digest, path.parent.name)
    assert main(["show", "my_model", "--out", str(out)]) == 0
    assert main(["diff", str(out), str(out)]) == 0
    capsys.readouterr()
    by_digest = ["tiny.yaml", "--set", f"plugin={digest}"]
    assert main(["table", *by_digest]) == 0
    assert "my_model" in capsys.readouterr().out
    assert main(["table", "tiny.yaml"]) == 2
    assert "unknown init 'my_scheme'" in capsys.readouterr().err
    assert main(["verify", *by_digest, "--sample", "all", "--devices", "cpu"]) == 2
    assert f"is from a plugin with digest {digest}; give its file with --plugin" in capsys.readouterr().err

    # an edited file makes new runs, and the message says how to read the old ones
    file.write_text(Path("gone.py").read_text() + "# edited\n")
    assert main(["table", "tiny.yaml", *own, "--only", "init=my_model"]) == 2
    assert f"plugin={digest}" in capsys.readouterr().err
    file.write_text("import no_such_module\n" + Path("gone.py").read_text())
    assert main(["matrix", "tiny.yaml", *own, *resources]) == 2
    assert "mine.py: line 1: ModuleNotFoundError" in capsys.readouterr().err
    assert records() == whole


def test_a_worker_of_a_cluster_gets_the_file_with_its_request(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(EXPERIMENT)
    register([read_plugin(file)])
    experiment, out = Experiment.load(path), tmp_path / "out"
    runs = experiment.runs({"init": "my_model"})
    options = Options(out, tmp_path, plugins=plugins.registered())
    sent = pickle.dumps(Request(Selected(experiment, runs, out), Resources(devices="cpu", per_device=1), options))
    register([])
    file.unlink()
    assert work(pickle.loads(sent), False, {}, 600.0).exit_code == 0
    assert read_result(RunFolder.of(out, runs[0]).result).run == runs[0]


def test_an_experiment_file_never_loads_code(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    for text in (EXPERIMENT, EXPERIMENT + "plugin: mine.py\n", EXPERIMENT.replace("run: {", "run: {plugin: mine.py, ")):
        path.write_text(text)
        with pytest.raises(UsageError, match=r"unknown (init|key|digest of a plugin) '"):
            Experiment.load(path)
    file.write_text(SCHEME + MODEL + "# not loaded by another test\n")
    register([read_plugin(file)])
    path.write_text(EXPERIMENT)
    found = {run.init: run.plugin for run in Experiment.load(path).runs()}
    digest = read_plugin(file).digest
    assert found == {"xavier": None, "my_scheme": digest, "my_model": digest}
    assert not [name for name in sys.modules if name.startswith("replicate_plugin_" + digest.partition(":")[2])]

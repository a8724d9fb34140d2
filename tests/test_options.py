"""Options and resources."""

import re
import sys
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from command_lines import parse

from replicate.errors import UsageError
from replicate.options import Options, Resources, Selection, command_line


def test_options_are_plain_data_in_a_record() -> None:
    plain = {"device": "cpu", "threads": 1, "devices_per_run": 1, "runs_per_device": 1}
    plain |= {"logger": "wandb", "wandb": "off"}
    plain |= {"experiment": "local", "checkpoint_seconds": 60.0, "step": "auto", "deterministic": True}
    assert Options(Path("out")).plain() == plain  # the CPU is deterministic without being asked
    assert Options(Path("out"), device="cuda").plain() == plain | {"device": "cuda", "deterministic": False}
    assert Options(Path("out"), device="cuda", deterministic=True).strict


def test_graphs_are_for_one_gpu() -> None:
    graph = Resources(step="graph")
    graph.check_step(["cuda"])
    with pytest.raises(UsageError, match="--step graph needs an NVIDIA GPU; elsewhere choose from: auto, eager"):
        graph.check_step(["cuda", "cpu"])
    with pytest.raises(UsageError, match="--step compiled is for one device; with --devices-per-run choose from: auto"):
        Resources(step="compiled", devices_per_run=2).check_step(["cuda"])
    Resources(step="eager", devices_per_run=2).check_step(["cuda", "cpu"])


def test_time_limit() -> None:
    lengths = {None: inf, "90": 90, "90s": 90, "1.5m": 90, "2h": 7200, "1d": 86_400}
    assert {text: Resources(time_limit=text).seconds for text in lengths} == lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "--workers is for clusters; on this machine, use --per-device"),
        ({"launcher": "slurm", "workers": 1001}, "--workers 1001 is out of range; give 1 to 1000"),
        ({"threads_per_run": 0}, "--threads-per-run 0 is out of range; give 1 or more"),
        ({"retries": -1}, "--retries -1 is out of range; give 0 or more"),
        *(({"checkpoint_seconds": wrong}, "is out of range; give 0 or more") for wrong in (-1.0, nan)),
        ({"devices": "gpu"}, "unknown device 'gpu'; choose from: auto, cpu, or GPU numbers such as 0,1"),
        ({"devices": "0,1,0"}, "--devices 0,1,0 names a GPU twice; for several runs on one GPU use --per-device"),
        ({"launcher": "slurm", "ray": {"address": "x"}}, "--ray.address needs --launcher ray"),
        ({"time_limit": "soon"}, "--time-limit 'soon' is not a length of time; give seconds, or 90s, 10m, 2h, 1d"),
        ({"time_limit": "0"}, "--time-limit '0' is not a length of time"),
    ],
)
def test_resources_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Resources(**options)


def test_the_words_of_a_selection_give_it_back() -> None:
    selection = Selection(out=Path("my results"), data_dir=Path("/d"), only=("init=lsuv",), set=("lr=0.5", "seed=0,1"))
    selection = replace(selection, plugin=(Path("a b.py"), Path("c.py")))
    _, arguments = parse(["table", "a.yaml", *selection.words])
    assert arguments["selection"] == selection
    assert Selection().words == []


def test_a_command_starts_as_this_program_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, selection = Path("a b.yaml"), Selection(set=("lr=0.5",))
    program = tmp_path / ".venv" / "bin" / "replicate"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(program), "matrix"])
    assert command_line("table", file, selection) == ".venv/bin/replicate table 'a b.yaml' --set lr=0.5"
    monkeypatch.setenv("PATH", str(program.parent))
    assert command_line("table", file, selection).startswith("replicate table ")
    monkeypatch.setattr(sys, "argv", ["replicate/__main__.py"])
    assert command_line("table", file, selection) == f"{sys.executable} -m replicate table 'a b.yaml' --set lr=0.5"

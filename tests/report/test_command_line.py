import shlex
from pathlib import Path

import pytest

from replicate.cli import make_parser
from replicate.commands import Selection
from replicate.report.command_line import CommandLine
from replicate.run import Run

ROOT = Path(__file__).parents[2]


def test_a_cell_is_named_by_its_axes() -> None:
    command_line = CommandLine(Path("experiments/table3.yaml"))
    assert command_line.whole() == "replicate matrix experiments/table3.yaml"
    assert command_line.cell(("init", "activation"), ("lsuv", "relu")) == (
        "replicate matrix experiments/table3.yaml --only init=lsuv activation=relu"
    )


def test_folders_are_nobody_elses_business() -> None:
    assert CommandLine(Path("/home/me/secret/experiments/a.yaml")).whole() == "replicate matrix experiments/a.yaml"


@pytest.mark.parametrize(
    ("settings", "only", "axes", "place"),
    [
        (("dataset=folder:cifar10-jpeg",), ("init=lsuv,xavier", "seed=0,1"), ("init", "activation"), ("lsuv", "tanh")),
        (("milestones=[[40,60],[50]]", "iterations=90"), (), ("milestones", "init"), ((40, 60), "msra")),
        (("clip_norm=[null,5.5]",), ("init=lsuv",), ("clip_norm", "activation"), (None, "relu")),
        (("mirror=true,false",), (), ("mirror", "init"), (False, "lsuv")),
        (("lr=0.1,1e-12",), (), ("lr", "init"), (1e-12, "lsuv")),
    ],
)
def test_the_command_gives_exactly_the_runs_of_the_cell(
    settings: tuple[str, ...], only: tuple[str, ...], axes: tuple[str, str], place: tuple[object, object]
) -> None:
    file = ROOT / "experiments" / "table3.yaml"
    command_line = CommandLine(file, settings, only)

    def runs(command: str) -> set[Run]:
        words = shlex.split(command)[1:]
        words[1] = str(file)
        return set(Selection.of(make_parser().parse_args(words)).runs)

    everything = runs(command_line.whole())
    wanted = {run for run in everything if tuple(getattr(run, axis) for axis in axes) == place}
    assert wanted
    assert runs(command_line.cell(axes, place)) == wanted

"""What the commands share: their common parameters, the runs that these select, and commands to paste."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from replicate.errors import UsageError
from replicate.logging_options import Logging, WandbProject
from replicate.options import Resources, Selection, command_line
from replicate.plugins import read_plugin, register

if TYPE_CHECKING:
    from replicate.matrix.plan import Selected
    from replicate.store.run_folder import Records

To = Annotated[Path | None, Parameter(help="Folder for the files (default: the output folder).")]
File = Annotated[Path, Parameter(help="Experiment file, such as experiments/table3.yaml.")]
Select = Annotated[Selection, Parameter(name="*", group=Group("Selection", sort_key=1))]
Resource = Annotated[Resources, Parameter(name="*", group=Group("Resources", sort_key=2))]
Log = Annotated[Logging, Parameter(name="*", group=Group("Logging", sort_key=3))]
Project = Annotated[WandbProject, Parameter(name="*", group=Group("Weights & Biases", sort_key=3))]


def select(file: Path, selection: Selection, shard: str | None = None) -> "Selected":
    """Load an experiment file, and choose the runs that a command works on."""
    from replicate.matrix.plan import Selected

    use_plugins(selection)
    return Selected.load(file, selection, shard)


def use_plugins(selection: Selection) -> None:
    """Make the initialisations of the plugins known that the user names, by their files or for reading by a digest."""
    by_digest = any(word.startswith("plugin=") and "sha256:" in word for word in selection.set)
    register([read_plugin(path) for path in selection.plugin], any_name=by_digest)


def select_finished(command: str, file: Path, selection: Selection) -> "tuple[Selected, Records]":
    """Choose runs, and read their records.

    Args:
        command: the name of the command, for the message.
        file: the experiment file.
        selection: the runs.

    Raises:
        UsageError: no run has finished. The message has a command that makes the runs or, if the output folder holds
            records with a few other settings, one that reads these.
    """
    from replicate.live.others import FEW, other_records

    selected = select(file, selection)
    records = selected.records
    if any(result.final for result in records.results.values()):
        return selected, records
    errors = f" ({len(records.results)} ended in an error)" if records.results else ""
    problem = f"{selected.out} holds no finished run of {selected.experiment.name}{errors}"
    others = other_records(selected.out, selected.runs, finished=True)
    only = {word.partition("=")[0] for word in selection.only}  # `--set` with other values would contradict these
    for found in others:
        if 0 < len(found.settings) <= FEW and not only & found.settings.keys():
            there = {word.partition("=")[0]: word for word in (*selection.set, *found.words)}
            other = command_line(command, file, replace(selection, set=tuple(there.values())))
            raise UsageError(f"{problem}, but {found}; to read these: {other}")
    if others:
        problem += f", but {others[0]}"
    raise UsageError(f"{problem}; to carry out the runs: {command_line('matrix', file, selection)}")


@contextmanager
def writing_to(base: Path, name: str = "", option: str = "--to") -> Iterator[Path]:
    """Make a folder, or the folder of this name in it, and write to it within.

    Raises:
        UsageError: it cannot be written, or there is a symbolic link of this name.
    """
    from replicate.store.files import refuse_link

    folder = base / name
    if name:
        refuse_link(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; give another folder with {option}") from None


def print_next(command: str) -> None:
    """Print the command that usually comes next; not if make has called this one, because make calls the next."""
    if "MAKELEVEL" not in os.environ:
        print(f"next: {command}")


def wrote(paths: list[Path]) -> int:
    """Print which files of one folder were written, and return the exit code 0."""
    first, *more = paths
    rest = [path.name for path in more] if len(more) < 6 else [f"{len(more)} more files"]
    print(f"wrote {', '.join([str(first), *rest[:-1]])}{f' and {rest[-1]}' if rest else ''}")
    return 0

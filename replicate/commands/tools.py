"""The commands for Weights & Biases, and those that check or describe the code, the data and the machine."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from replicate.commands.common import File, Project, Select, select
from replicate.logging_options import WandbProject
from replicate.names import ACTIVATIONS, INITS, MODELS, PREPROCESSINGS
from replicate.options import DATA_DIR, OUT, Selection
from replicate.plugins import read_plugin

InitFile = Annotated[Path, Parameter(help="Python file, such as experiments/plugins/random_signs.py.")]


def sync(
    file: File, /, *, selection: Select = Selection(), project: Project = WandbProject(), dry_run: bool = False
) -> int:
    """Upload to Weights & Biases what was logged offline, with a report job: table, figures and verdicts.

    Args:
        dry_run: Print what would be uploaded, and upload nothing.
    """
    from replicate.tracking.sync import sync as upload

    selected = select(file, selection)
    return upload(selected.experiment, selected.runs, selected.records, selected.out, project, dry_run)


def dashboard(
    file: File, /, *, selection: Select = Selection(), project: Project = WandbProject(), dry_run: bool = False
) -> int:
    """Save a Weights & Biases workspace for an experiment's runs: curves, layers and table.

    Args:
        dry_run: Print what would be saved, and save nothing.
    """
    from replicate.tracking.workspace import dashboard as save

    print(save(select(file, selection).experiment, project, dry_run))
    return 0


def check(file: File, /, *, selection: Select = Selection()) -> int:
    """Check code and data before a long matrix, on the CPU: loss, gradients, learning by heart, and leaks.

    The exit code is 1 if a check fails. Nothing is written.
    """
    from replicate.checks.check import check as check_runs

    return check_runs(select(file, selection).runs, selection.data_dir, Console())


def check_init(file: InitFile, /) -> int:
    """Check each initialisation of a Python file of your own on small nets, in about ten seconds on one core.

    Same weights twice; no other random stream, no buffer and no other parameter touched; shape, dtype and finite
    values; a few iterations with every activation; a stop and resume. The exit code is 1 if a check fails.
    """
    from replicate.checks.init_file import check_init as check_file

    return check_file(read_plugin(file), Console())


def doctor(*, out: Path = OUT, data_dir: Path = DATA_DIR) -> int:
    """Check devices, disk, data and W&B, and suggest fixes.

    Args:
        out: Output folder (default: results/local).
        data_dir: Folder of the data sets (default: data).
    """
    from replicate.doctor import examine

    return examine(out, data_dir)


def list_names(*, data_dir: Path = DATA_DIR) -> int:
    """List the initialisations, activations, models, preprocessings and data sets.

    Args:
        data_dir: Folder of the data sets (default: data).
    """
    from replicate.data import available

    lists = {"inits": [*INITS], "activations": [*ACTIVATIONS], "models": [*MODELS], "preprocessings": [*PREPROCESSINGS]}
    lists["data sets"] = [name if here else f"{name} (not in {data_dir} yet)" for name, here in available(data_dir)]
    for kind, choices in lists.items():
        print(f"{kind + ':':<16}{', '.join(choices)}")
    return 0

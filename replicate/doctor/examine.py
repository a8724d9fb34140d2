"""The way through an examination: what is quick first, then the devices."""

from itertools import chain
from pathlib import Path

from rich.console import Console

from replicate.doctor import surroundings
from replicate.doctor.devices import devices
from replicate.doctor.show import show, verdict
from replicate.matrix.local import LocalLauncher
from replicate.matrix.task import PRELOAD


def examine(out: Path, data_dir: Path, console: Console) -> int:
    """Look at everything and show it.

    Args:
        out: where results would go.
        data_dir: where data sets would be found.
        console: where the findings and the verdict go.

    Returns:
        The exit code: 0 if something can train, else 1.
    """
    with LocalLauncher(preload=PRELOAD) as launcher:
        parts = (
            surroundings.versions(),
            surroundings.room(surroundings.places(out, data_dir)),
            surroundings.data(data_dir),
            surroundings.wandb(),
            devices(launcher),
        )
        code, sentence = verdict(show(chain(*parts), console))
    console.print(sentence, soft_wrap=True, markup=False)
    return code

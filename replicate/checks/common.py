"""What the checks share: their findings, a few images, and a small net that learns surely and quickly."""

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from replicate.data.datamodule import DeviceData
from replicate.data.dataset import Dataset
from replicate.init import LSUVError, LSUVWarning
from replicate.options import Options
from replicate.report.text import count, terminal_text
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.environment import configure
from replicate.training.module import Classifier

Verdict = Literal["ok", "note", "failed"]
Say = Callable[[str], None]  # shows what is being done

STYLES: dict[Verdict, str] = {"ok": "green", "note": "yellow", "failed": "bold red"}

# To save time: as in the runs, LSUV takes a core half a minute for a net of full width.
LSUV: dict[str, Any] = {"lsuv_batch_size": 16, "lsuv_tol": 0.1}

# Ours. Model, preprocessing and scale of the input are those of the experiment.
SMALL: dict[str, Any] = {
    **{"init": "lsuv", "activation": "tanh", "seed": 0, "width": 0.125, "dropout": 0.0, "pad": 0, "mirror": False},
    **{"batch_size": 20, "iterations": 300, "milestones": (), "lr": 0.02, "weight_decay": 0.0},
    **{"optimizer": "sgd", "momentum": 0.9, "square_decay": None},
    **{"clip_norm": None, "precision": "32-true", "ema": 0.0, "test_mirror": False, **LSUV},
    **{"zoom": 0.0, "colour_jitter": 0.0, "cutout": 0, "plugin": None},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Args:
        verdict: `ok`; `note`: something to know; `failed`: an error in the code or the data.
        text: one sentence with the figures.
        table: more figures.
    """

    verdict: Verdict
    text: str
    table: Table | None = None


def print_findings(findings: Callable[[Say], Iterable[tuple[str, Finding]]], console: Console) -> int:
    """Carry out checks and print what they find.

    Args:
        findings: carries out one check after another, and yields their names and what they find; its argument shows
            what is being done.
        console: where to print.

    Returns:
        The exit code: 1 if a check failed, else 0.
    """
    configure(Options(Path()))  # one thread: on a busy machine more take longer
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # else it lists the devices before each training
    # They call deprecated functions of torch, and give advice on clusters.
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
    warnings.simplefilter("ignore", LSUVWarning)  # on small batches not every layer gets close enough to 1
    failed = 0
    with console.status("") as status:
        for name, finding in findings(lambda text: status.update(terminal_text(text))):
            failed += finding.verdict == "failed"
            line = Text(f"{finding.verdict:<7}", STYLES[finding.verdict]) + Text(f"{name}: ", "bold")
            console.print(line + terminal_text(finding.text), soft_wrap=True)
            if finding.table is not None:
                console.print(finding.table)
    console.print(f"{count(failed, 'check')} failed" if failed else "no check failed", highlight=False)
    return int(failed > 0)


def sample(dataset: Dataset, train: int, test: int) -> Dataset:
    """Draw some training and test images of a data set: always the same, and fewer if it has fewer."""
    rng = np.random.default_rng(0)
    first = rng.permutation(len(dataset.train_labels))[:train]
    second = rng.permutation(len(dataset.test_labels))[:test]
    return replace(
        dataset,
        train_images=dataset.train_images[first],
        train_labels=dataset.train_labels[first],
        test_images=dataset.test_images[second],
        test_labels=dataset.test_labels[second],
    )


def start(run: Run, dataset: Dataset) -> tuple[Classifier, DeviceData]:
    """Build the net and the data of a run, and initialise the net, as a training on the CPU does.

    Raises:
        LSUVError: the initialisation failed.
    """
    data = build_data(run, dataset, "cpu")
    net = build_net(run, len(dataset.classes), "cpu")
    try:
        init_net_(net, run, data)
    except Exception as error:
        if run.plugin is None:
            raise
        raise LSUVError(f"{run.init}: {type(error).__name__}: {error}") from error  # the user's code
    return Classifier(net, run), data

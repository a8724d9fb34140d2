"""`replicate check`: sanity checks of the code and the data, in about a minute on a CPU.

Three come from lectures on training networks: is the loss right before the first iteration, are the gradients those of
the loss, and does a small net learn a few images by heart? Two look for leaks of test images and labels. Sizes and
tolerances are our choice.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from replicate.checks.common import Finding, Say, print_findings
from replicate.checks.copies import find_copies
from replicate.checks.nets import check_gradients, check_losses
from replicate.checks.trainings import learn_by_heart, learn_shuffled_labels
from replicate.data import load
from replicate.data.validation import hold_out
from replicate.init import LSUVError
from replicate.run import Run
from replicate.training.module import DivergedError


def check(runs: Sequence[Run], data_dir: Path, console: Console) -> int:
    """Carry out all checks and print what they find.

    Meant for a process of its own: it sets torch's threads, seeds and flags.

    Args:
        runs: to be checked; of several data sets, only the first is used to train.
        data_dir: where data sets are found, and downloaded to.
        console: shows the findings, and on a terminal what is being done.

    Returns:
        The exit code: 1 if a check failed, else 0.

    Raises:
        UsageError: a data set is missing or damaged, or a model takes other images.
    """
    return print_findings(partial(findings, runs, data_dir), console)


def findings(runs: Sequence[Run], data_dir: Path, say: Say) -> Iterator[tuple[str, Finding]]:
    """Carry out one check after another, and yield their names and what they find.

    Args:
        runs: as in `check`.
        data_dir: as in `check`.
        say: called with what is being done.
    """
    datasets = {}
    for name, validation in dict.fromkeys((run.dataset, run.validation) for run in runs):
        say(f"reading {name}")
        whole = load(name, data_dir, lambda done, total: say(f"images decoded: {done:,} of {total:,}"))
        for run in runs:
            if run.dataset == name:
                run.check_images(whole.shape)
        dataset = datasets[name, validation] = hold_out(whole, validation)
        split = f" with {validation:,} validation images" if validation else ""
        yield f"copies in {name}{split}", find_copies(dataset)
    first, dataset = next(iter(datasets.items()))
    mine = [run for run in runs if (run.dataset, run.validation) == first]
    checks: dict[str, Callable[[], Finding]] = {
        "loss before training": partial(check_losses, mine, dataset, say),
        "gradients": partial(check_gradients, mine, dataset, say),
        "images by heart": partial(learn_by_heart, mine, dataset),
        "shuffled labels": partial(learn_shuffled_labels, mine, dataset),
    }
    for name, find in checks.items():
        say(name)
        try:
            yield name, find()
        except (DivergedError, LSUVError) as error:
            yield name, Finding("failed", str(error))

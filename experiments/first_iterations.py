"""The first iterations of the cells in doubt, at a few scales of the input. See input_scale.py.

The cells in doubt are those that fail here but not in the paper, and MSRA with maxout, which fails in both. They are
trained at full width in float32 on the CPU. None of this is a result of Table 3.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from statistics import fmean

from rich.console import Console
from rich.progress import track
from torch.nn import functional as F

from replicate.data.dataset import Dataset
from replicate.report.text import cell_name
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.module import Classifier

CELLS = (("msra", "relu"), ("msra", "vlrelu"), ("msra", "maxout"), ("xavier", "maxout"))
LAST = 10  # iterations in the mean loss at the end


def losses_of(run: Run, dataset: Dataset) -> tuple[float, list[float]]:
    """Return the variance of the first logits, and each iteration's loss up to the first non-finite one."""
    data, net = build_data(run, dataset, "cpu"), build_net(run, len(dataset.classes), "cpu")
    init_net_(net, run, data)
    model = Classifier(net, run).train()
    optimizer = model.configure_optimizers()
    found: list[float] = []
    variance = math.nan
    for images, labels in islice(data.batches, run.iterations):
        logits = net(images)
        loss = F.cross_entropy(logits, labels)
        variance = variance if found else logits.var(correction=0).item()
        found.append(loss.item())
        if not math.isfinite(found[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return variance, found


def first_iterations(
    dataset: Dataset, name: str, iterations: int, scales: Sequence[float], width: float
) -> Iterator[str]:
    """Train the cells, and yield one row of the table per cell and scale.

    Args:
        dataset: the images.
        name: name of the data set, for the runs.
        iterations: iterations of each training.
        scales: values of input_scale.
        width: width of the net.
    """
    cells = [(*cell, scale) for cell in CELLS for scale in scales]
    for init, activation, scale in track(cells, "first iterations", console=Console(stderr=True)):
        run = Run(init, activation, dataset=name, width=width, input_scale=scale, iterations=iterations, milestones=(),
                  precision="32-true")  # fmt: skip
        variance, found = losses_of(run, dataset)
        end = f"{fmean(found[-LAST:]):.4g}" if math.isfinite(found[-1]) else f"not finite after {len(found) - 1}"
        yield f"| {cell_name(init, activation)} | {scale:g} | {variance:,.4g} | {found[0]:,.4g} | {end} |"

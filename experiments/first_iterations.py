"""The first iterations of the cells in doubt, at a few scales of the input; a part of input_scale.py.

In doubt are the cells that fail here but not in the paper, and MSRA with maxout, which fails in both. They are trained
at full width in float32 on the CPU; nothing of it is a result of Table 3.
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
    """Variance of the first logits, and the loss of each iteration, up to the first that is not finite."""
    data, net = build_data(run, dataset, "cpu"), build_net(run, len(dataset.classes), "cpu")
    init_net_(net, run, data)
    model = Classifier(net, run).train()
    optimizer = model.configure_optimizers()
    found: list[float] = []
    variance = math.nan
    for images, labels in islice(data.batches, run.iterations):
        logits = model(images)
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
    """One row of the table per cell and scale."""
    cells = [(*cell, scale) for cell in CELLS for scale in scales]
    for init, activation, scale in track(cells, "first iterations", console=Console(stderr=True)):
        run = Run(init, activation, dataset=name, width=width, input_scale=scale, iterations=iterations, milestones=(),
                  precision="32-true")  # fmt: skip
        variance, found = losses_of(run, dataset)
        end = f"{fmean(found[-LAST:]):.4g}" if math.isfinite(found[-1]) else f"not finite after {len(found) - 1}"
        yield f"| {cell_name(init, activation)} | {scale:g} | {variance:,.4g} | {found[0]:,.4g} | {end} |"

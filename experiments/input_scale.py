"""Do the cells that fail at their first steps fail with a smaller input too? python experiments/input_scale.py

The constants of the released contrast normalisation are not known. LSUV undoes any factor on the input, the other
initialisations hand it on to the logits. So the first iterations of the cells in doubt, at full width, in float32, are
run with the preprocessed images multiplied by a factor, on the CPU; nothing of it is a result of Table 3.
"""

import argparse
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from torch.nn import functional as F

from replicate import provenance
from replicate.data.dataset import Dataset
from replicate.data.sources import load
from replicate.report.axes import title
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.module import Classifier

CELLS = (("msra", "relu"), ("msra", "vlrelu"), ("msra", "maxout"), ("xavier", "maxout"))
FACTORS = (1.0, 0.25)
LAST = 10  # iterations whose mean loss is told


def losses(run: Run, dataset: Dataset, factor: float) -> tuple[float, list[float]]:
    """Variance of the first logits, and the loss of each iteration, up to the first that is not finite."""
    data, net = build_data(run, dataset, "cpu"), build_net(run, len(dataset.classes), "cpu")
    init_net_(net, run, data)
    model = Classifier(net, run).train()
    optimizer = model.configure_optimizers()
    found: list[float] = []
    variance = math.nan
    for images, labels in islice(data.batches, run.iterations):
        logits = model(images * factor)
        loss = F.cross_entropy(logits, labels)
        variance = variance if found else logits.var(correction=0).item()
        found.append(loss.item())
        if not math.isfinite(found[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return variance, found


def rows(dataset: Dataset, name: str, iterations: int) -> Iterator[str]:
    """One line of the table a cell and factor."""
    for init, activation in CELLS:
        for factor in FACTORS:
            run = Run(init, activation, dataset=name, iterations=iterations, milestones=(), precision="32-true")
            variance, found = losses(run, dataset, factor)
            end = f"{fmean(found[-LAST:]):.4g}" if math.isfinite(found[-1]) else f"not finite after {len(found) - 1}"
            yield f"| {title(init)} × {title(activation)} | {factor:g} | {variance:,.4g} | {found[0]:,.4g} | {end} |"


def main() -> None:
    """Run the cells, print the table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where data sets are found (data/)")
    parser.add_argument("--dataset", default="folder:cifar10-jpeg", help="as of a run (folder:cifar10-jpeg)")
    parser.add_argument("--iterations", type=int, default=60, help="of each run (60)")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset, (commit, dirty) = load(args.dataset, args.data_dir), provenance.commit()
    lines = [
        "# The input's scale and the first iterations", "",
        f"`python experiments/input_scale.py --data-dir DIR --dataset {args.dataset} --iterations {args.iterations}`: "
        f"seed 0, width 1, float32, {dataset.label}; commit {commit[:12]}{' with changes' if dirty else ''}, "
        f"{provenance.cpu_name()}, {datetime.now(UTC):%Y-%m-%d}. Chance is a loss of {math.log(10):.3f}.", "",
        "| cell | factor on the input | variance of the first logits | first loss | "
        f"mean loss of the last {LAST} iterations |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    print("\n".join(lines), flush=True)
    for row in rows(dataset, args.dataset, args.iterations):
        print(row, flush=True)
        lines.append(row)
    if args.page is not None:
        write_atomically(args.page, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

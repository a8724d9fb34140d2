"""One process of a DistributedDataParallel model, for test_wrapped.py: ddp_rank.py RANK STORE OUT."""

import sys

import torch
import torch.distributed as dist
from torch import nn

from replicate.init import lsuv_


def main(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)  # the processes differ in all that could differ: weights, dropout, data
    model = nn.parallel.DistributedDataParallel(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(8 * 16, 6),
        ).to(memory_format=torch.channels_last)
    )
    # The second process's data have four times the variance, and more of them.
    batches = [torch.randn(16 * (rank + 1), 3, 6, 6) * (rank + 1) for _ in range(3)]
    report = lsuv_(model, batches, dropout=True, tol=0.2)
    once = lsuv_(model, batches[0], dropout=False)
    torch.save(
        {
            "weights": model.module.state_dict(),
            "fresh": [(row.layer, row.variance_before, row.variance_after, row.tries, row.status) for row in report],
            "once": [(row.layer, row.variance, row.variance_after, row.tries, row.status) for row in once],
            "passes": report.passes,
            "batch": batches[0],
        },
        out,
    )
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])

"""Shards: a matrix cut into parts of like cost, one for each machine that takes part."""

import re
from collections.abc import Sequence

from replicate.errors import UsageError
from replicate.run import Run


def shard(text: str, runs: Sequence[Run]) -> tuple[Run, ...]:
    """Choose one part of the runs, which depends on nothing but the runs: every machine cuts them in the same way.

    The runs are sorted so that those of like cost stand together (net and length of training, then activation: maxout
    costs twice), in them the cells, in these the seeds. Dealt out in turn, the parts then differ by one at most in
    their number of runs, of runs of each cost, and of runs of each cell. The order of the expansion would not do: with
    five activations and five parts, one part would get every maxout.

    Args:
        text: such as `2/8`, the second of eight parts.
        runs: all of them.

    Returns:
        The runs of that part, in the order given.

    Raises:
        UsageError: no such part, or more parts than runs.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, flags=re.ASCII)
    if match is None:
        raise UsageError(f"--shard {text!r} is no part; give such as 2/8, the second of eight")
    part, parts = int(match[1]), int(match[2])
    if not 1 <= part <= parts:
        raise UsageError(
            f"--shard {text} is out of range; give a part from 1/{max(parts, 1)} to {max(parts, 1)}/{max(parts, 1)}"
        )
    if parts > len(runs):
        raise UsageError(f"--shard {text} cuts {len(runs)} runs into {parts} parts; give {len(runs)} parts at most")
    mine = set(sorted(runs, key=_likeness)[part - 1 :: parts])
    return tuple(run for run in runs if run in mine)


def _likeness(run: Run) -> tuple[str | int | float, ...]:
    cost = (run.dataset, run.model, run.width, run.batch_size, run.iterations, run.activation)
    return (*cost, run.init, run.seed, run.run_id)

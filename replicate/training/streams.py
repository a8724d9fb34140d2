"""One seed, named streams of random numbers: what one stream draws never moves another."""

import hashlib

from torch import Generator

from replicate.errors import unknown

STREAMS = ("init", "lsuv", "batches", "dropout")


def stream_seed(seed: int, name: str, rank: int = 0) -> int:
    """Seed of a run's stream, below 2**63: the first 63 bits of sha256 over `seed/name`, or `seed/name/rank`.

    Args:
        seed: of the run.
        name: one of STREAMS.
        rank: of the process, where several train the run and each draws numbers of its own.

    Raises:
        UsageError: a name that is not in STREAMS.
    """
    if name not in STREAMS:
        raise unknown("random stream", name, STREAMS)
    own = f"/{rank}" if rank else ""  # the first process draws what a process alone would
    digest = hashlib.sha256(f"{seed}/{name}{own}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: str) -> Generator:
    """Make the CPU generator of one of a run's streams, at its start."""
    return Generator().manual_seed(stream_seed(seed, name))

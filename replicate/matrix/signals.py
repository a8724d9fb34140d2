"""The signals that end a matrix cleanly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 and SIGUSR2 are the warnings of SLURM and submitit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, a signal only makes the yielded function true: nothing is broken off half-way."""
    received: list[int] = []

    def note(number: int, _: Any) -> None:
        received.append(number)

    before = {one: signal.signal(one, note) for one in SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

"""The signals that end a matrix cleanly."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1 and SIGUSR2 are the warnings of SLURM and submitit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class _Received:
    """A signal handler that notes what it receives."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int, frame: Any) -> None:
        self.numbers.append(number)

    def any(self) -> bool:
        return bool(self.numbers)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, a signal only makes the yielded function true: nothing is broken off half-way.

    Used within itself, it yields the function of the outermost, so that no signal is lost between the two.
    """
    outer = signal.getsignal(SIGNALS[0])
    if isinstance(outer, _Received):
        yield outer.any
        return
    received = _Received()
    before = {one: signal.signal(one, received) for one in SIGNALS}
    try:
        yield received.any
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)

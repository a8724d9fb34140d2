"""The time limit of a command: whether a run may still start, and when the running ones must stop."""

import math
import time
from collections.abc import Callable

START_SECONDS = 10.0  # until a start has been measured: a guess for a small machine
END_SECONDS = 3.0  # to write a checkpoint and end a process


class Limit:
    """Measures how long runs take to start and to stop, and says when there is no time left for either.

    A run stops when it could next report its progress, after a chunk of iterations, and saves a checkpoint there. So a
    run can reach a checkpoint if there is time for its start-up: the initialisation, or reading the last checkpoint,
    and its first chunk. The longest start-up and the longest time between two reports so far count.

    Args:
        seconds: that the command has, from now on; infinity for no limit.
        clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._start_up: float | None = None
        self._gap = 0.0
        self._begun: dict[str, float] = {}
        self._told: dict[str, float] = {}

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return max(0.0, self._end - self._clock())

    @property
    def start_up(self) -> float:
        """Seconds that a run needs until it can save a checkpoint, as far as is known."""
        return START_SECONDS if self._start_up is None else self._start_up

    def began(self, task: str) -> None:
        """Note that a run has started."""
        self._begun[task] = self._clock()

    def told(self, task: str) -> None:
        """Note that a run has reported its progress."""
        now = self._clock()
        if task in self._begun:
            self._start_up = max(self._start_up or 0.0, now - self._begun.pop(task))
        else:
            self._gap = max(self._gap, now - self._told[task])
        self._told[task] = now

    def may_start(self) -> bool:
        """Whether a run that starts now could still save a checkpoint and end before the limit."""
        return self.left > self.start_up + self._gap + END_SECONDS

    def reached(self) -> bool:
        """Whether the running runs must stop now in order to end before the limit."""
        return self.left <= self._gap + END_SECONDS

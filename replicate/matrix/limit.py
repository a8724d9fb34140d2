"""The time limit of a command: what may still start, and when those running must be told to stop."""

import math
import time
from collections.abc import Callable

START_SECONDS = 10.0  # until a start has been measured: a guess for a small machine
END_SECONDS = 3.0  # to write a checkpoint and end a process


class Limit:
    """Measures how long runs take to start and to stop, and so says when there is no time for either.

    A run that is told to stop does so where it could next tell its progress, after a chunk of iterations, and saves a
    checkpoint there, whenever the last one was. So a run can reach its next checkpoint if there is time for its
    start-up: until its first chunk is done, initialisation or reading the last checkpoint included. The start-up, and
    the time between two tellings, are taken as long as the longest seen so far.

    Args:
        seconds: that the command has from now on; infinity for no limit.
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
        """Seconds that a run is thought to need until it can save a checkpoint."""
        return START_SECONDS if self._start_up is None else self._start_up

    def began(self, task: str) -> None:
        """Note that a run was started."""
        self._begun[task] = self._clock()

    def told(self, task: str) -> None:
        """Note that a run has told its progress."""
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
        """Whether the runs under way must stop now, in order to have ended before the limit."""
        return self.left <= self._gap + END_SECONDS

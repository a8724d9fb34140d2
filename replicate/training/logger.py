"""What a training reports while it runs."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, Protocol

from replicate.store.measurements import Row, Snapshot
from replicate.store.result import Result


class Progress(Protocol):
    """Receives the progress of a training. An exception that it raises ends the training with an error."""

    def __call__(self, iteration: int, test_accuracy: float | None, stage: str = "", /) -> None:
        """Called about twice a second and at each row, and at each stage of the start.

        Args:
            iteration: iterations done so far.
            test_accuracy: the latest, in %; None before the first row.
            stage: what the run does before its first iteration, such as `initialising layer 7 of 19`; empty later.
        """


class Logger:
    """Follows one training. Here each method does nothing; override those of interest.

    The methods are called in this order, `row` and `snapshot` any number of times. An exception that one of them raises
    ends the training with an error.
    """

    def start(self, fingerprint: str) -> str | None:
        """Called when the data are loaded.

        Args:
            fingerprint: of the data.

        Returns:
            The URL at which the run can be followed, for its record; None if there is none.
        """
        return None

    def initialized(
        self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]
    ) -> None:
        """Called when the network is ready to train.

        Args:
            init: report of the initialisation.
            rows: of the learning curve, from before an interruption.
            snapshots: of the layers, from before an interruption.
        """

    def row(self, row: Row) -> None:
        """Called when the learning curve has a new row."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """Called when the layers were measured."""

    def replay(self, rows: Sequence[Row], snapshots: Sequence[Snapshot]) -> None:
        """Log what a resumed run has so far, as if it happened now."""
        past = [(snapshot.iteration, partial(self.snapshot, snapshot)) for snapshot in snapshots]
        past += [(int(row["iteration"]), partial(self.row, row)) for row in rows]
        for _, log in sorted(past, key=itemgetter(0)):  # a snapshot stays before the row of its iteration
            log()

    def finish(self, result: Result | None) -> None:
        """Called when the training is over and its result is written; None: a signal stopped it."""


@contextlib.contextmanager
def errors_are_printed(name: str) -> Iterator[None]:
    """Print what the logger of this name raises, and continue: a training does not need it."""
    try:
        yield
    except Exception as error:  # of a network, a server, a full disk
        print(f"{name}: {error!r}; the run continues without it")

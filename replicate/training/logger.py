"""What a training reports while it runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from replicate.store.measurements import Row, Snapshot
from replicate.store.result import Result

# Called about twice a second and at each row, with the number of iterations and the latest test accuracy in %; None
# before the first row. An exception that it raises ends the training with an error.
Progress = Callable[[int, float | None], None]


class Logger:
    """Follows one training. Here each method does nothing; override those of interest.

    The methods are called in this order, `row` and `snapshot` any number of times. An exception that one of them raises
    ends the training with an error.
    """

    def start(self, fingerprint: str) -> None:
        """Called when the data are loaded.

        Args:
            fingerprint: of the data.
        """

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

    def finish(self, result: Result | None) -> None:
        """Called when the training is over and its result is written; None: a signal stopped it."""

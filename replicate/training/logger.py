"""What a training tells others while it runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from replicate.store.curve import Row
from replicate.store.layers import Snapshot
from replicate.store.result import Result


class Logger:
    """Follows one training. Here each method does nothing; override those of interest.

    The methods are called in this order, `progress`, `row` and `snapshot` any number of times. What they raise ends the
    training with an error.
    """

    def start(self, fingerprint: str) -> None:
        """The data are loaded.

        Args:
            fingerprint: of the data.
        """

    def initialized(
        self, init: Sequence[Mapping[str, Any]], rows: Sequence[Row], snapshots: Sequence[Snapshot]
    ) -> None:
        """The network is ready to train.

        Args:
            init: report of the initialisation.
            rows: of the learning curve that an interrupted training has left.
            snapshots: likewise, of the layers.
        """

    def progress(self, iteration: int, test_accuracy: float | None) -> None:
        """So many iterations are done; about twice a second and at each row. The latest test accuracy is in %."""

    def row(self, row: Row) -> None:
        """The learning curve has a new row."""

    def snapshot(self, snapshot: Snapshot) -> None:
        """The layers were measured."""

    def finish(self, result: Result | None) -> None:
        """The training is over, and its result written; None: a signal stopped it."""

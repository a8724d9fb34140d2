"""What the scheduler asks of a launcher: start tasks somewhere, tell what becomes of them, end them."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

from replicate.matrix.local import Event


class Launcher(Protocol):
    """Starts tasks in processes of their own, on whatever machine. At the end of its context no task is left."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def start(
        self,
        task: str,
        function: str,
        arguments: tuple[Any, ...],
        environment: Mapping[str, str],
        log: Path,
        place: str = "",
    ) -> None:
        """Start a task.

        Args:
            task: its name, in its events.
            function: `module:function`, called as `function(*arguments, send)`.
            arguments: must pickle.
            environment: of the process; on another machine, what differs from this process's.
            log: file to which its standard output and error are added.
            place: name of the slot; tasks that start together in slots of one name may share their resources.
        """
        ...

    def events(self, timeout: float) -> Iterator[Event]:
        """Yield what the tasks have to say within `timeout` seconds; the last of a task is no `progress`."""
        ...

    def stop(self, seconds: float = math.inf) -> None:
        """End every task: ask first, and after so many seconds do not ask."""
        ...

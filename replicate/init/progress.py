"""A progress bar for initialisations that take long."""

import contextlib
import time
from collections.abc import Callable, Iterator

Progress = Callable[[int, int], None]  # called with the number of a layer that begins, and the number of layers
PATIENCE = 2.0  # seconds before the bar appears


@contextlib.contextmanager
def show_progress(progress: Progress | None) -> Iterator[Progress]:
    """Yield a function to report progress to: the given one, or one that shows a bar on a terminal.

    The bar appears after two seconds and is removed at the end.
    """
    if progress is not None:
        yield progress
        return
    from rich.console import Console  # not needed where a model is initialised without a terminal
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    started_at = time.perf_counter()
    with contextlib.ExitStack() as stack:
        bar = Bar(console=console, transient=True)
        task = bar.add_task("LSUV", total=None)

        def show(number: int, total: int) -> None:
            if console.is_terminal and time.perf_counter() - started_at > PATIENCE:
                if not bar.live.is_started:
                    stack.enter_context(bar)
                bar.update(task, completed=number - 1, total=total, description=f"LSUV, layer {number} of {total}")

        yield show

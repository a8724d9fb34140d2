"""The scheduler: carries out runs, one at a time in each slot, whatever becomes of them."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.local import Event, LocalLauncher, death, tail
from replicate.matrix.slots import Slot
from replicate.options import Options
from replicate.results import Result, collect
from replicate.run import Run

# SIGUSR1 and SIGUSR2 are the warnings of SLURM and submitit.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
WORKER = "replicate.training.train:train_run"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a matrix ended.

    Args:
        errors: runs asked for whose record is an error.
        left: runs that were to be done and did not come to an end, because the matrix was stopped.
    """

    errors: int
    left: int

    @property
    def exit_code(self) -> int:
        """0 done, 1 some runs ended in error, 3 stopped with more to do."""
        return 3 if self.left else min(self.errors, 1)


def run_all(
    launcher: LocalLauncher,
    runs: Sequence[Run],
    todo: Sequence[Run],
    slots: Sequence[Slot],
    options: Options,
    display: Display,
    worker: str = WORKER,
) -> Outcome:
    """Carry out the runs that are left, each in a process of its own, and go on when one fails.

    A signal (SIGINT, SIGTERM, SIGUSR1, SIGUSR2) ends it cleanly: no run is started any more, those running save a
    checkpoint and end, and the next call goes on from there.

    Args:
        launcher: starts the processes.
        runs: all that were asked for.
        todo: those without a finished record, in the order in which they start.
        slots: where runs run, one at a time in each.
        options: of every run; the device is the slot's.
        display: is told what happens.
        worker: `module:function` that carries out a run.
    """
    options = replace(options, commit=options.commit or provenance.commit())  # of the code that the runs are to run
    waiting, free, ended = list(todo), list(slots), set[str]()
    busy: dict[str, tuple[Run, Slot, float]] = {}
    display.begin(len(runs) - len(todo), len(runs))
    with _stoppable() as stopped:
        while (waiting or busy) and not stopped():
            while waiting and free:
                run, slot = waiting.pop(0), free.pop(0)
                _start(launcher, worker, run, slot, options)
                busy[run.run_id] = run, slot, perf_counter()
                display.started(run, slot)
            for event in launcher.events(timeout=0.5):
                run, slot, begin = busy[event.task]
                if event.kind == "progress":
                    display.progressed(run, *event.value)
                    continue
                del busy[event.task]
                free.append(slot)
                if _was_stopped(event) or (event.kind == "died" and stopped()):
                    display.note(f"{run.run_id} was stopped by a signal; the same command goes on with it")
                    continue
                try:
                    display.ended(_result(event, run, slot, options, perf_counter() - begin))
                    ended.add(run.run_id)
                except OSError as error:
                    display.note(f"{run.run_id} ended in an error, and its record cannot be written: {error}")
        if stopped():
            display.note(f"stopping, runs under way: {len(busy)}; the same command goes on where this one ends")
        launcher.stop()
    left = {run.run_id for run in todo} - ended
    found = [result for result in collect(options.out, runs).results.values() if result.run.run_id not in left]
    return Outcome(sum(result.status == "error" for result in found), len(left))


def _was_stopped(event: Event) -> bool:
    """Whether a task ended because a signal asked it to: with its checkpoint saved, or before it could listen."""
    return (event.kind == "done" and event.value is None) or (event.kind == "died" and event.value == -signal.SIGTERM)


def _start(launcher: LocalLauncher, worker: str, run: Run, slot: Slot, options: Options) -> None:
    launcher.start(
        run.run_id,
        worker,
        (run, replace(options, device=slot.device)),
        {**os.environ, **slot.environment},
        options.out / "runs" / run.run_id / "log.txt",
    )


def _result(event: Event, run: Run, slot: Slot, options: Options, seconds: float) -> Result:
    """Take the result of a run that came to its end, or write the record of one that did not."""
    if event.kind == "done":
        done: Result = event.value
        return done
    folder = options.out / "runs" / run.run_id
    reason = str(event.value) if event.kind == "failed" else f"the process died: {death(event.value)}"
    commit, dirty = options.commit or provenance.commit()
    result = Result(
        run=run,
        status="error",
        test_accuracy=None,
        train_loss=None,
        iteration=0,
        init=[],
        seconds=seconds,
        images_per_second=None,
        data_label=run.dataset,
        fingerprint="unknown",
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        device=slot.name,
        options=replace(options, device=slot.device).plain(),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        error=f"{tail(folder / 'log.txt')}\n{reason}",
    )
    result.write(folder)
    return result


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
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

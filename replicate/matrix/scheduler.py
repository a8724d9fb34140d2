"""The scheduler: carries out runs, one at a time in each slot, next to other commands that do the same."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.limit import Limit
from replicate.matrix.local import Event, LocalLauncher
from replicate.matrix.plan import long_ones_first
from replicate.matrix.retry import Retries
from replicate.matrix.signals import stoppable
from replicate.matrix.slots import Slot
from replicate.matrix.task import TRAIN, Busy, Done, Failed, GraphFailed, Stopped, Task, outcome_of, utc_now
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import new_token, release
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect
from replicate.store.watch import LeaseWatch

WORKER = "replicate.worker:run_task"
LOOK_SECONDS = 1.0  # between two looks at the runs that others do


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a matrix ended.

    Args:
        errors: number of runs that ended in an error.
        left: number of runs that are still to be done, because the matrix was stopped or another command holds them.
    """

    errors: int
    left: int

    @property
    def exit_code(self) -> int:
        """0: done. 1: some runs ended in an error. 3: stopped, and runs are left."""
        return 3 if self.left else min(self.errors, 1)


@dataclass(slots=True, eq=False)
class _Entry:
    """What this command knows of a run that is left.

    Args:
        run: the run.
        result: the latest record that this command has seen; a different one comes from another command.
        unrecorded: the latest attempts here, if they left no record.
        graph_failure: see Options.
        over: whether the run has finished or failed for good.
    """

    run: Run
    result: Result | None
    unrecorded: list[Mapping[str, Any]] = field(default_factory=list)
    graph_failure: str | None = None
    over: bool = False


@dataclass(frozen=True, slots=True)
class _Attempt:
    entry: _Entry
    task: Task
    slot: Slot
    begin: float


def run_all(
    launcher: LocalLauncher,
    runs: Sequence[Run],
    todo: Sequence[Run],
    slots: Sequence[Slot],
    options: Options,
    display: Display,
    train: str = TRAIN,
    retries: int = 0,
    limit: Limit | None = None,
    wait: bool = True,
) -> Outcome:
    """Carry out the runs that are left, each in a process of its own. A run that fails does not stop the others.

    If another command works on a run, wait for it, and take the run over if that command dies. A signal (SIGINT,
    SIGTERM, SIGUSR1, SIGUSR2) or the time limit stops cleanly: no further run starts, the running ones save checkpoints
    and end, and the next call resumes them.

    Args:
        launcher: starts the processes.
        runs: all that were asked for.
        todo: those without a finished record, in the order in which they start (see long_ones_first for the last ones).
        slots: where runs run, one at a time in each.
        options: of every run, but for the device and the number of runs on it, which are the slot's.
        display: shows what happens.
        train: `module:function` that trains a run.
        retries: how often a run is retried in this call after a transient error.
        limit: the time limit of the command; None: none.
        wait: whether to wait for the runs that other commands hold, and to retry those that fail there. If False, end
            once every run is over or held by another command; runs that become free before that are carried out.
    """
    options = replace(options, commit=options.commit or provenance.commit())  # of the code that runs now
    display.begin(len(runs) - len(todo), len(runs))
    matrix = _Matrix(launcher, slots, options, display, train, Retries(retries, slots), limit or Limit(), wait)
    matrix.carry_out(todo)
    return matrix.outcome(runs)


class _Matrix:
    """The state of `run_all`. Each entry is waiting, running here, elsewhere (running in another command) or over."""

    def __init__(
        self,
        launcher: LocalLauncher,
        slots: Sequence[Slot],
        options: Options,
        display: Display,
        train: str,
        retries: Retries,
        limit: Limit,
        wait: bool,
    ) -> None:
        self._launcher, self._options, self._display = launcher, options, display
        self._train, self._retries, self._limit, self._waits = train, retries, limit, wait
        self._free = list(slots)
        self._entries: list[_Entry] = []
        self._waiting: list[_Entry] = []
        self._running: dict[str, _Attempt] = {}
        self._elsewhere: list[_Entry] = []
        self._watch, self._looked = LeaseWatch(), 0.0

    def carry_out(self, todo: Sequence[Run]) -> None:
        known = collect(self._options.out, todo).results
        self._entries = [_Entry(run, known.get(run.run_id)) for run in long_ones_first(todo, len(self._free))]
        self._waiting = list(self._entries)
        with stoppable() as stopped:
            while (self._waiting or self._running or (self._waits and self._elsewhere)) and not stopped():
                self._start()
                if not (self._running or self._elsewhere) and self._waiting:
                    why = f"{self._limit.left:.0f} s are left, and a start takes {self._limit.start_up:.0f} s"
                    self._display.note(f"time limit: no further run can reach a checkpoint ({why})")
                    break
                for event in self._launcher.events(timeout=0.5):
                    self._hear(event, stopped())
                self._look_elsewhere()
                if self._limit.reached():
                    self._display.note("time limit reached")
                    break
            left = sum(not entry.over for entry in self._entries)
            if left > len(self._elsewhere) or (left and self._waits):
                counts = f"running: {len(self._running)}, left in all: {left}"
                self._display.note(f"stopping; {counts}; the same command resumes them")
            self._launcher.stop(self._limit.left)
        for attempt in self._running.values():
            release(attempt.task.folder, attempt.task.token)

    def outcome(self, runs: Sequence[Run]) -> Outcome:
        records = collect(self._options.out, runs).results
        final = {run_id for run_id, result in records.items() if result.final}
        left = {entry.run.run_id for entry in self._entries if not entry.over} - final
        errors = {entry.run.run_id for entry in self._entries if entry.unrecorded} | records.keys()
        return Outcome(len(errors - left - final), len(left))

    def _start(self) -> None:
        while self._waiting and self._free and self._limit.may_start():
            entry = self._waiting.pop(0)
            run = entry.run
            lease = self._watch.look(RunFolder.of(self._options.out, run))
            if lease is not None and not lease.expired:
                self._elsewhere.append(entry)
                waiting = "; waiting for it" if self._waits else ""
                self._display.note(f"{run.run_id} is being run by {lease.holder}{waiting}")
                continue
            slot = self._free.pop(0)
            shared = self._retries.sharing(slot)
            failure, unrecorded = entry.graph_failure, tuple(entry.unrecorded)
            options = replace(self._options, device=slot.device, runs_per_device=shared, graph_failure=failure)
            expired = lease.token if lease else None
            task = Task(run, options, slot.name, new_token(), expired, entry.result, unrecorded, self._train)
            environment = {**os.environ, **slot.environment}
            self._launcher.start(run.run_id, WORKER, (task,), environment, task.folder.log)
            self._running[run.run_id] = _Attempt(entry, task, slot, time.monotonic())
            self._limit.began(run.run_id)
            self._display.started(run, slot)
            if lease is not None:
                self._display.note(f"{run.run_id} is taken over from {lease.holder}, which is gone")

    def _hear(self, event: Event, stopped: bool) -> None:
        attempt = self._running[event.task]
        entry, run = attempt.entry, attempt.entry.run
        if event.kind == "progress":
            self._limit.told(event.task)
            self._display.progressed(run, *event.value)
            return
        del self._running[event.task]
        self._free.append(attempt.slot)
        self._display.left(run)
        match outcome_of(attempt.task, event, stopped, time.monotonic() - attempt.begin):
            case Done(result, ours):
                entry.result, entry.unrecorded = result, []
                self._over_or_again(entry, result, result.passing, attempt if ours else None)
            case Failed(reason, kind):
                reason = f"{reason}; its record cannot be written"
                entry.unrecorded.append({"when": utc_now(), "reason": reason[:200]})
                self._display.note(f"{run.run_id} ended in an error: {reason}")
                self._over_or_again(entry, None, kind, attempt)
            case GraphFailed(reason):
                entry.graph_failure = reason
                self._waiting.insert(0, entry)
                self._display.note(f"{run.run_id} starts again without a CUDA graph ({reason})")
            case Stopped():
                release(attempt.task.folder, attempt.task.token)
                self._display.note(f"{run.run_id} was stopped by a signal; the same command resumes it")
            case Busy():
                self._elsewhere.append(entry)

    def _over_or_again(self, entry: _Entry, result: Result | None, kind: str | None, attempt: _Attempt | None) -> None:
        """Close a run or retry it. `attempt`: the one here that has just ended; None: it was in another command."""
        slot, shared = (attempt.slot, attempt.task.options.runs_per_device) if attempt else (None, 1)
        failed = (result is None or not result.final) and (attempt is not None or self._waits)
        again = self._retries.judge(entry.run.run_id, kind, slot, shared) if failed else None
        if again is None:
            entry.over = True
            self._display.ended(entry.run, result)
            return
        if slot is not None and again.fewer:
            self._free.remove(slot)
        self._waiting.append(entry)
        self._display.note(again.why)

    def _look_elsewhere(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for entry in list(self._elsewhere):
            folder = RunFolder.of(self._options.out, entry.run)
            lease = self._watch.look(folder)
            if lease is not None and not lease.expired:
                continue
            self._elsewhere.remove(entry)
            result = folder.record()
            if result is None or (not result.final and result == entry.result):
                self._waiting.insert(0, entry)  # its owner gave it up, or died
            else:
                entry.result = result
                self._over_or_again(entry, result, result.passing, None)

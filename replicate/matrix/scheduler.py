"""The scheduler: carries out runs, one at a time in each slot, next to other commands that do the same."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.local import Ended, LocalLauncher, Progress, stoppable
from replicate.matrix.plan import long_ones_first
from replicate.matrix.resources import Deadline, RetryPolicy, Slot
from replicate.matrix.task import TRAIN, Failed, GraphFailed, State, Task, outcome_of, utc_now
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import new_token, release, remove_expired
from replicate.store.owner import LeaseWatch
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect

WORKER = "replicate.worker:run_task"
POLL_SECONDS = 1.0  # between two looks at the runs of other commands


@dataclass(frozen=True, slots=True)
class MatrixSummary:
    """How a matrix ended.

    Args:
        errors: number of runs that ended in an error.
        unfinished: number of runs that are still to be done, because the matrix was stopped or another command holds
            them.
    """

    errors: int
    unfinished: int

    @property
    def exit_code(self) -> int:
        """0: done. 1: some runs ended in an error. 3: stopped early, with unfinished runs."""
        return 3 if self.unfinished else min(self.errors, 1)


@dataclass(slots=True, eq=False)
class _Entry:
    """A run, and what its next attempt must know.

    Args:
        run: the run.
        result: the latest record that this command has seen; a different one comes from another command.
        unrecorded: the latest attempts here, if they left no record.
        graph_failure: see Options.
    """

    run: Run
    result: Result | None
    unrecorded: list[Mapping[str, Any]] = field(default_factory=list)
    graph_failure: str | None = None


@dataclass(eq=False)
class Scheduler:
    """Carries out runs, each in a process of its own. A run that fails does not stop the others.

    If another command works on a run, wait for it, and take the run over if that command dies. A signal (SIGINT,
    SIGTERM, SIGHUP, SIGUSR1, SIGUSR2) or the deadline stops cleanly: no further run starts, the running ones save
    checkpoints and end, and the next call resumes them.

    Args:
        launcher: starts the processes.
        slots: where runs run, one at a time in each.
        options: of every run, except for the device and the number of runs on it, which the slot decides.
        display: shows what happens.
        train: `module:function` that trains a run.
        retries: how often a run is retried in this call after a transient error.
        deadline: of the command.
        wait: whether to wait for the runs that other commands hold, and to retry those that fail there. If False, end
            once every run is over or held by another command; runs that become free before that are carried out.
    """

    launcher: LocalLauncher
    slots: Sequence[Slot]
    options: Options
    display: Display
    train: str = TRAIN
    retries: int = 0
    deadline: Deadline = field(default_factory=Deadline)
    wait: bool = True

    def __post_init__(self) -> None:
        provenance.code()  # as it is now, for the record of a run whose process dies
        self._policy, self._free = RetryPolicy(self.retries, self.slots), list(self.slots)
        self._waiting: list[_Entry] = []
        self._running: dict[str, tuple[_Entry, Task, Slot, float]] = {}  # by run_id; with the time of the start
        self._elsewhere: list[_Entry] = []  # another process holds them
        self._over: set[str] = set()  # finished, or failed for good
        self._watch, self._polled = LeaseWatch(), 0.0

    def run(self, runs: Sequence[Run], todo: Sequence[Run]) -> MatrixSummary:
        """Carry out the unfinished runs.

        Args:
            runs: all that were asked for.
            todo: those without a finished record, in the order in which they start (except for the last ones, see
                `long_ones_first`).
        """
        self.display.begin(len(runs) - len(todo), len(runs))
        known = collect(self.options.out, todo).results
        self._waiting += [_Entry(run, known.get(run.run_id)) for run in long_ones_first(todo, len(self.slots))]
        with stoppable() as stopped:
            while (self._waiting or self._running or (self._elsewhere and self.wait)) and not stopped():
                self._start_waiting()
                if self.deadline.expired() or (self._waiting and not (self._running or self._elsewhere)):
                    self.display.note("time limit reached: no further run can reach a checkpoint")
                    break
                for event in self.launcher.events(timeout=0.5):
                    self._handle_event(event, stopped())
                self._poll_others()
            if not self.wait:  # a run that was held a moment ago may have ended
                self._polled = 0.0
                self._poll_others()
            running, unfinished = len(self._running), len(todo) - len(self._over)
            if unfinished > (0 if self.wait else len(self._elsewhere)):
                self.display.note(f"stopping {running} runs, {unfinished} unfinished; the same command resumes them")
            self.launcher.stop(self.deadline.remaining())
        for _, task, _, _ in self._running.values():
            release(task.folder, task.token)
        final = {run_id for run_id, result in collect(self.options.out, runs).results.items() if result.final}
        left = {run.run_id for run in todo} - self._over - final
        return MatrixSummary(len(runs) - len(final) - len(left), len(left))

    def _start_waiting(self) -> None:
        while self._waiting and self._free and self.deadline.may_start():
            entry = self._waiting.pop(0)
            folder = RunFolder.of(self.options.out, entry.run)
            found = left = self._watch.look(folder)
            if found is not None and found.expired:
                left = remove_expired(folder, found)
            if left is None:
                self._start(entry)
                if found is not None:
                    self.display.note(f"{entry.run.run_id} is taken over from {found.holder}, which is gone")
            elif left.problem:
                self.display.note(f"{entry.run.run_id} cannot be carried out: {left.problem}")
                self._finish_or_retry(entry, None, None)
            else:
                self._elsewhere.append(entry)
                self.display.note(f"{entry.run.run_id} is being run by {left.holder}")

    def _start(self, entry: _Entry) -> None:
        """Start a run in a free slot."""
        run, slot = entry.run, self._free.pop(0)
        shared, failure = self._policy.sharing[slot.name], entry.graph_failure
        options = replace(self.options, device=slot.device, runs_per_device=shared, graph_failure=failure)
        task = Task(run, options, slot.name, new_token(), entry.result, tuple(entry.unrecorded), self.train)
        self.launcher.start(run.run_id, WORKER, (task,), {**os.environ, **slot.environment}, task.folder.log)
        self._running[run.run_id] = entry, task, slot, time.monotonic()
        self.deadline.started(run.run_id)
        self.display.progressed(run, slot, 0, None, "starting")

    def _handle_event(self, event: Progress | Ended, stopped: bool) -> None:
        entry, task, slot, begin = self._running[event.task]
        if isinstance(event, Progress):
            iteration, accuracy, stage = event.values
            if not stage:  # else the run could not save a checkpoint yet
                self.deadline.progressed(event.task)
            self.display.progressed(task.run, slot, iteration, accuracy, stage)
            return
        del self._running[event.task]
        self._free.append(slot)
        self.display.released(task.run)
        sharing, shared = self._policy.sharing[slot.name], task.options.runs_per_device
        match outcome_of(task, event, stopped, time.monotonic() - begin):
            case Result() as result:
                entry.result, entry.unrecorded = result, []
                self._finish_or_retry(entry, result, self._policy.decide(event.task, result.passing, slot, shared))
            case Failed(reason, kind):
                entry.unrecorded.append({"when": utc_now(), "reason": reason[:200]})
                self.display.note(f"{event.task} ended in an error: {reason}")
                self._finish_or_retry(entry, None, self._policy.decide(event.task, kind, slot, shared))
            case GraphFailed(reason):
                entry.graph_failure = reason
                self._waiting.insert(0, entry)
                self.display.note(f"{event.task} starts again without a CUDA graph ({reason})")
            case State.ELSEWHERE:
                self._elsewhere.append(entry)
            case State.STOPPED:
                release(task.folder, task.token)
                self.display.note(f"{event.task} was stopped by a signal; the same command resumes it")
        if self._policy.sharing[slot.name] < sharing:  # from now on, one run less shares the device
            self._free.remove(slot)

    def _finish_or_retry(self, entry: _Entry, result: Result | None, message: str | None) -> None:
        """Close a run, or retry it.

        Args:
            entry: the run.
            result: its record; None: it failed without one.
            message: why it is retried; None: it is not.
        """
        if message is None:
            self._over.add(entry.run.run_id)
            self.display.ended(entry.run, result)
        else:
            self._waiting.append(entry)
            self.display.note(message)

    def _poll_others(self) -> None:
        """Look whether runs that other commands held have ended there, or are free again."""
        if time.monotonic() - self._polled < POLL_SECONDS:
            return
        self._polled = time.monotonic()
        for entry in list(self._elsewhere):
            folder = RunFolder.of(self.options.out, entry.run)
            lease = self._watch.look(folder)
            if lease is not None and not (lease.expired or lease.problem):
                continue
            self._elsewhere.remove(entry)
            result = folder.record()
            if result is None or (not result.final and result == entry.result):
                self._waiting.insert(0, entry)  # its owner gave it up, or died
            else:
                entry.result = result
                message = self._policy.decide(entry.run.run_id, result.passing) if self.wait else None
                self._finish_or_retry(entry, result, message)

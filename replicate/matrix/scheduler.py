"""The scheduler: carries out runs, one at a time in each slot, whatever becomes of them and whoever else does so."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replicate import provenance
from replicate.matrix.display import Display
from replicate.matrix.limit import Limit
from replicate.matrix.local import Event, LocalLauncher
from replicate.matrix.plan import long_ones_first
from replicate.matrix.retry import Retries
from replicate.matrix.signals import stoppable
from replicate.matrix.slots import Slot
from replicate.matrix.task import TRAIN, Done, Failed, GraphFailed, Stopped, Task, outcome_of, utc_now
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import new_token, release
from replicate.store.result import Result
from replicate.store.run_folder import RunFolder, collect
from replicate.store.watch import LeaseInfo, LeaseWatch

WORKER = "replicate.worker:run_task"
LOOK_SECONDS = 1.0  # between two looks at the runs that others do


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a matrix ended.

    Args:
        errors: runs asked for that ended in an error.
        left: runs that were to be done and did not come to an end, because the matrix was stopped.
    """

    errors: int
    left: int

    @property
    def exit_code(self) -> int:
        """0 done, 1 some runs ended in error, 3 stopped with more to do."""
        return 3 if self.left else min(self.errors, 1)


@dataclass(frozen=True, slots=True)
class _Job:
    task: Task
    slot: Slot
    shared: int
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
    """Carry out the runs that are left, each in a process of its own, and go on when one fails.

    A run that another command works on is waited for, and taken over should that one die. A signal (SIGINT, SIGTERM,
    SIGUSR1, SIGUSR2) or the time limit ends all cleanly: no run is started any more, those running save a checkpoint
    and end, and the next call resumes them.

    Args:
        launcher: starts the processes.
        runs: all that were asked for.
        todo: those without a finished record, in the order in which they start, but for the last (long_ones_first).
        slots: where runs run, one at a time in each.
        options: of every run; the device is the slot's, and so is the number of runs on it.
        display: is told what happens.
        train: `module:function` that trains a run.
        retries: how often a run is tried again in this call after a failure that may be passing.
        limit: of the whole command; None: none.
        wait: whether to wait for the runs of other commands, and to retry those that fail there. False: end once every
            run is done or is another command's; runs that become free until then are taken.
    """
    options = replace(options, commit=options.commit or provenance.commit())  # of the code that the runs are to run
    display.begin(len(runs) - len(todo), len(runs))
    return _Matrix(launcher, todo, slots, options, display, train, retries, limit or Limit(), wait).carry_out(runs)


class _Matrix:
    """The state of `run_all`: each run to do is waiting, busy (here), elsewhere (in another command), or over."""

    def __init__(
        self,
        launcher: LocalLauncher,
        todo: Sequence[Run],
        slots: Sequence[Slot],
        options: Options,
        display: Display,
        train: str,
        retries: int,
        limit: Limit,
        wait: bool,
    ) -> None:
        self._launcher, self._options, self._display = launcher, options, display
        self._train, self._retries, self._limit = train, Retries(retries, slots), limit
        self._waits = wait
        self._todo, self._waiting, self._free = list(todo), long_ones_first(todo, len(slots)), list(slots)
        self._busy: dict[str, _Job] = {}
        self._elsewhere: dict[str, Run] = {}
        self._over: set[str] = set()
        self._unrecorded: dict[str, list[Mapping[str, Any]]] = {}  # failures that left no record
        self._graph_failures: dict[str, str] = {}
        self._watch, self._looked = LeaseWatch(), 0.0
        # What earlier calls have left: a record that differs was made while this call goes on.
        self._known: dict[str, Result] = dict(collect(options.out, todo).results)

    def carry_out(self, runs: Sequence[Run]) -> Outcome:
        with stoppable() as stopped:
            while (self._waiting or self._busy or (self._waits and self._elsewhere)) and not stopped():
                self._start()
                if not (self._busy or self._elsewhere) and self._waiting:
                    why = f"{self._limit.left:.0f} s are left, and a start takes {self._limit.start_up:.0f} s"
                    self._display.note(f"time limit: no further run can reach a checkpoint ({why})")
                    break
                for event in self._launcher.events(timeout=0.5):
                    self._hear(event, stopped())
                self._look_elsewhere()
                if self._limit.reached():
                    self._display.note("time limit reached")
                    break
            left = len(self._todo) - len(self._over)
            if left > len(self._elsewhere) or (left and self._waits):
                counts = f"running: {len(self._busy)}, left in all: {left}"
                self._display.note(f"stopping; {counts}; the same command resumes them")
            self._launcher.stop(self._limit.left)
        for job in self._busy.values():
            release(job.task.folder, job.task.token)
        return self._outcome(runs)

    def _outcome(self, runs: Sequence[Run]) -> Outcome:
        records = collect(self._options.out, runs).results
        finished = {run_id for run_id, result in records.items() if result.final}
        left = {run.run_id for run in self._todo} - self._over - finished
        errors = {run_id for run_id, result in records.items() if not result.final} | self._unrecorded.keys()
        return Outcome(len(errors - left - finished), len(left))

    def _start(self) -> None:
        for run in list(self._waiting):
            if not self._free or not self._limit.may_start():
                return
            self._waiting.remove(run)
            lease = self._watch.look(RunFolder.of(self._options.out, run))
            if lease is not None and not lease.expired:
                self._leave(run, lease)
                continue
            slot = self._free.pop(0)
            shared = self._retries.sharing(slot)
            failure = self._graph_failures.get(run.run_id)
            options = replace(self._options, device=slot.device, runs_per_device=shared, graph_failure=failure)
            expired, known = lease.token if lease else None, self._known.get(run.run_id)
            unrecorded = tuple(self._unrecorded.get(run.run_id, ()))
            task = Task(run, options, slot.name, new_token(), expired, known, unrecorded, self._train)
            environment = {**os.environ, **slot.environment}
            self._launcher.start(run.run_id, WORKER, (task,), environment, task.folder.log)
            self._busy[run.run_id] = _Job(task, slot, shared, time.monotonic())
            self._limit.began(run.run_id)
            self._display.started(run, slot)
            if lease is not None:
                self._display.note(f"{run.run_id} is taken over from {lease.holder}, which is gone")

    def _leave(self, run: Run, lease: LeaseInfo) -> None:
        self._elsewhere[run.run_id] = run
        waiting = "; waiting for it" if self._waits else ""
        self._display.note(f"{run.run_id} is being run by {lease.holder}{waiting}")

    def _hear(self, event: Event, stopped: bool) -> None:
        job = self._busy[event.task]
        run = job.task.run
        if event.kind == "progress":
            self._limit.told(event.task)
            self._display.progressed(run, *event.value)
            return
        del self._busy[event.task]
        self._free.append(job.slot)
        self._display.left(run)
        ending = outcome_of(job.task, event, stopped, time.monotonic() - job.begin)
        if isinstance(ending, Done):
            self._known[run.run_id] = ending.result
            self._unrecorded.pop(run.run_id, None)
            self._over_or_again(run, ending.result, ending.result.passing, job if ending.ours else None)
        elif isinstance(ending, Failed):
            reason = f"{ending.reason}; its record cannot be written"
            self._unrecorded.setdefault(run.run_id, []).append({"when": utc_now(), "reason": reason[:200]})
            self._display.note(f"{run.run_id} ended in an error: {reason}")
            self._over_or_again(run, None, ending.passing, job)
        elif isinstance(ending, GraphFailed):
            self._graph_failures[run.run_id] = ending.reason
            self._waiting.insert(0, run)
            self._display.note(f"{run.run_id} starts again without a CUDA graph ({ending.reason})")
        elif isinstance(ending, Stopped):
            release(job.task.folder, job.task.token)
            self._display.note(f"{run.run_id} was stopped by a signal; the same command resumes it")
        else:
            self._elsewhere[run.run_id] = run

    def _over_or_again(self, run: Run, result: Result | None, kind: str | None, job: _Job | None) -> None:
        """Be done with a run, or try it again; `job`: of an attempt that has just left its slot, None: of others."""
        slot, shared = (job.slot, job.shared) if job else (None, 1)
        failed = (result is None or not result.final) and (job is not None or self._waits)
        again = self._retries.judge(run.run_id, kind, slot, shared) if failed else None
        if again is None:
            self._over.add(run.run_id)
            self._display.ended(run, result)
            return
        if slot is not None and again.fewer:
            self._free.remove(slot)
        self._waiting.append(run)
        self._display.note(again.why)

    def _look_elsewhere(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        for run_id, run in list(self._elsewhere.items()):
            lease = self._watch.look(RunFolder.of(self._options.out, run))
            if lease is not None and not lease.expired:
                continue
            del self._elsewhere[run_id]
            result = RunFolder.of(self._options.out, run).record()  # `collect` would list all others for each
            if result is None or (not result.final and result == self._known.get(run_id)):
                self._waiting.insert(0, run)  # its owner gave it up, or died
            else:
                self._known[run_id] = result
                self._over_or_again(run, result, result.passing, None)

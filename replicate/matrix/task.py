"""A run as a task for a process of its own, the outcomes of such a task, and the record of a process that died."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from replicate import provenance
from replicate.matrix.local import Ended, tail
from replicate.names import modules
from replicate.options import Options
from replicate.run import Run
from replicate.store.fields import MAX_ERROR
from replicate.store.files import NotPlainFileError
from replicate.store.lease import Lease, acquire, release
from replicate.store.owner import Owner
from replicate.store.result import Attempt, BadRecordError, Result, read_result
from replicate.store.run_folder import RESULT, RunFolder

EXIT_LEASE_LOST = 75  # exit code of a process that lost its lease (EX_TEMPFAIL)
TRAIN = "replicate.training.train:train_run"
# What LocalLauncher loads once for all runs, so that they run the same code even if its files are edited meanwhile.
# Only the loggers are loaded later; no number depends on them.
PRELOAD = " ".join([TRAIN.partition(":")[0], "replicate.worker", *modules()])


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker process has to do.

    Args:
        run: to be carried out.
        options: of the run.
        device: name of the slot.
        token: of the lease that the process is to acquire.
        previous_result: the record of an earlier attempt; any other record was made by another process in the meantime.
        unrecorded: earlier attempts that left no record.
        train: `module:function`, called as `train_run` is.
    """

    run: Run
    options: Options
    device: str
    token: str
    previous_result: Result | None = None
    unrecorded: Sequence[Mapping[str, Any]] = ()
    train: str = TRAIN

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder.of(self.options.out, self.run)

    def acquire(self, token: str | None = None) -> Lease | None:
        """Acquire the run's lease, see `store.lease.acquire`."""
        return acquire(self.folder, Owner(self.device, self.run.iterations, stage="starting"), token)

    def is_superseded_by(self, recorded: Result) -> bool:
        """Whether a record makes this attempt pointless: it is final, or not the one that the scheduler knew."""
        return recorded.final or recorded != self.previous_result

    def history(self, recorded: Result | None) -> list[Attempt]:
        """The failed attempts before this one.

        Args:
            recorded: the record of the latest attempt that left one; None: there is none.
        """
        earlier: list[Mapping[str, Any]] = [*self.unrecorded]
        if recorded is not None:
            lines = (recorded.error or "").strip().splitlines() or ["unknown"]
            earlier = [*recorded.history, {"when": recorded.finished, "reason": lines[-1][:200]}, *self.unrecorded]
        return [Attempt(when=one["when"], reason=one["reason"], attempt=n) for n, one in enumerate(earlier, start=1)]


class State(Enum):
    """The state of a run whose attempt has ended without a result and without an error."""

    ELSEWHERE = "is held by another process"
    STOPPED = "was stopped by a signal; the next call resumes it"


@dataclass(frozen=True, slots=True)
class GraphFailed:
    """The run must start again in a new process, without a CUDA graph. `reason`: for Options.graph_failure."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and its record could not be written. `kind`: one of errors.KINDS, or None."""

    reason: str
    kind: str | None


TaskOutcome = Result | GraphFailed | Failed | State  # a result: the attempt has left a record


def recorded_result(lease: Lease) -> Result | None:
    """Read the record of a run; None: there is none. What is there and cannot be used is renamed and kept."""
    try:
        return read_result(lease.folder.result)
    except FileNotFoundError:
        return None
    except (BadRecordError, NotPlainFileError) as error:
        print(f"{error}; set aside as {lease.set_aside(RESULT)}")
        return None


def outcome_of(task: Task, event: Ended, stopped: bool, seconds: float) -> TaskOutcome:
    """Find out how a task has ended, and write the record of its run if its process has failed to.

    Args:
        task: as it was started.
        event: its end.
        stopped: whether the matrix has been asked to stop.
        seconds: since the start.
    """
    if not isinstance(event.value, Exception):
        return event.value  # type: ignore[no-any-return]  # of `run_task`
    reason = str(event.value)
    if event.exit_code is not None:
        if stopped or event.exit_code == -signal.SIGTERM:
            return State.STOPPED
        if event.exit_code == EXIT_LEASE_LOST:
            return State.ELSEWHERE
        reason = f"the process died: {reason}"
    try:
        return record_failure(task, reason, event.kind, seconds)
    except OSError as error:
        return Failed(f"{reason}; its record cannot be written ({error})", event.kind)


def record_failure(task: Task, reason: str, kind: str | None, seconds: float) -> Result | State:
    """Write the record of a run whose process has ended without one.

    Args:
        task: of that process.
        reason: how it ended.
        kind: one of errors.KINDS, or None.
        seconds: how long it ran.

    Raises:
        OSError: the record cannot be written.
    """
    release(task.folder, task.token)
    lease = task.acquire()
    if lease is None:
        return State.ELSEWHERE
    with lease:
        recorded = recorded_result(lease)
        if recorded is not None and task.is_superseded_by(recorded):
            return recorded  # the process died after it had written its record
        output = tail(task.folder.log)
        error = output if output.endswith(reason) else f"{output}\n{reason}"
        result = Result(
            run=task.run,
            status="error",
            seconds=seconds,
            data_label=task.run.dataset,
            **asdict(provenance.code()),
            versions=provenance.versions(),
            device=task.device,
            options=task.options.plain(),
            finished=utc_now(),
            error=error[-MAX_ERROR:],
            passing=kind,
            history=task.history(recorded),
        )
        return lease.write_result(result)


def utc_now() -> str:
    """Return the time for a record, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")

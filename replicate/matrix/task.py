"""A run as a task for a process of its own, what may become of it, and the record of a process that died."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from replicate import provenance
from replicate.errors import KILLED
from replicate.matrix.local import Event, death, tail
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import Lease, acquire
from replicate.store.owner import Owner
from replicate.store.result import Attempt, BadRecordError, Result, read_result
from replicate.store.run_folder import RESULT, RunFolder

EXIT_LEASE_LOST = 75  # exit code of a process that lost its lease (EX_TEMPFAIL)
TRAIN = "replicate.training.train:train_run"
PRELOAD = TRAIN.partition(":")[0]  # what LocalLauncher loads once for all runs


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker process has to do.

    Args:
        run: to be carried out.
        options: of the run.
        device: name of the slot, for people.
        token: of the lease that the process is to acquire.
        expired_token: of a dead owner, whose lease is to be taken over.
        previous_result: the record of an earlier attempt; any other record was made by somebody else meanwhile.
        unrecorded: earlier attempts that left no record.
        train: `module:function`, called as `train_run` is.
    """

    run: Run
    options: Options
    device: str
    token: str
    expired_token: str | None = None
    previous_result: Result | None = None
    unrecorded: Sequence[Mapping[str, Any]] = ()
    train: str = TRAIN

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder.of(self.options.out, self.run)

    def acquire(self, token: str | None = None, expired: str | None = None) -> Lease | None:
        """Acquire the run's lease, see `store.lease.acquire`."""
        return acquire(self.folder, Owner(self.device, self.run.iterations), token, expired)

    def is_news(self, recorded: Result | None) -> bool:
        """Whether a record makes this attempt pointless: it is final, or not the one that the scheduler knew."""
        return recorded is not None and (recorded.final or recorded != self.previous_result)

    def history(self, recorded: Result | None) -> list[Attempt]:
        """The failed attempts before this one.

        Args:
            recorded: the record that is there, of the latest attempt that left one.
        """
        earlier: list[Mapping[str, Any]] = []
        if recorded is not None:
            lines = (recorded.error or "").strip().splitlines() or ["unknown"]
            earlier = [*recorded.history, {"when": recorded.finished, "reason": lines[-1][:200]}]
        attempts = enumerate([*earlier, *self.unrecorded], start=1)
        return [Attempt(when=one["when"], reason=one["reason"], attempt=number) for number, one in attempts]


@dataclass(frozen=True, slots=True)
class Done:
    """There is a record. `ours`: this attempt wrote it."""

    result: Result
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Stopped:
    """A signal ended the run; it can be continued."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another process holds the lease."""


@dataclass(frozen=True, slots=True)
class GraphFailed:
    """The run is to start again in a new process, without a CUDA graph. `reason`: for Options.graph_failure."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and its record could not be written. `passing`: one of errors.KINDS, or None."""

    reason: str
    passing: str | None


TaskOutcome = Done | Stopped | Busy | GraphFailed | Failed


def recorded_result(lease: Lease) -> Result | None:
    """Read the record that is there; one that cannot be used is set aside, under a name that is free."""
    try:
        return read_result(lease.folder.result)
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        print(f"{error}; set aside as {lease.set_aside(RESULT)}")
        return None


def outcome_of(task: Task, event: Event, stopped: bool, seconds: float) -> TaskOutcome:
    """Say what became of a task, and write the record of its run if its process has not.

    Args:
        task: as it was started.
        event: its last.
        stopped: whether the matrix has been told to stop.
        seconds: since the start.
    """
    kind: str | None = None
    if event.kind == "done":
        if not isinstance(event.value, Failed):
            return event.value  # type: ignore[no-any-return]  # of `run_task`
        reason, kind = event.value.reason, event.value.passing
    elif event.kind == "failed":
        reason = str(event.value)
    elif stopped or event.value == -signal.SIGTERM:
        return Stopped()
    elif event.value == EXIT_LEASE_LOST:
        return Busy()
    else:
        reason = f"the process died: {death(event.value)}"
        kind = KILLED if event.value is not None and event.value < 0 else None
    try:
        return record_death(task, reason, kind, seconds)
    except OSError as error:
        return Failed(f"{reason} ({error})" if str(error) not in reason else reason, kind)


def record_death(task: Task, reason: str, kind: str | None, seconds: float) -> Done | Busy:
    """Write the record of a run whose process is gone without one.

    Args:
        task: that the process had.
        reason: how it ended.
        kind: one of errors.KINDS, or None.
        seconds: how long it ran.

    Raises:
        OSError: the record cannot be written.
    """
    lease = task.acquire(expired=task.token)
    if lease is None:
        return Busy()
    with lease:
        recorded = recorded_result(lease)
        if recorded is not None and task.is_news(recorded):
            return Done(recorded)  # it died after it had written its record
        commit, dirty = task.options.commit or provenance.commit()
        output = tail(task.folder.log)
        result = Result(
            run=task.run,
            status="error",
            seconds=seconds,
            data_label=task.run.dataset,
            commit=commit,
            dirty=dirty,
            versions=provenance.versions(),
            device=task.device,
            options=task.options.plain(),
            finished=utc_now(),
            error=output if output.endswith(reason) else f"{output}\n{reason}",
            passing=kind,
            history=task.history(recorded),
        )
        return Done(lease.write_result(result))


def utc_now() -> str:
    """The time for a record, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")

"""An attempt at a run, under its lease: by the run's own process, or what the scheduler writes of one that died."""

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from replicate import provenance
from replicate.matrix.local import resolve, tail
from replicate.options import Options
from replicate.passing import passing
from replicate.run import Run
from replicate.store.lease import Lease, acquire, current_token
from replicate.store.owner import Owner
from replicate.store.result import Attempt, BadRecordError, Result, read_result
from replicate.store.run_folder import RESULT, RunFolder

LOST = 75  # exit code of a process that lost its lease (EX_TEMPFAIL)


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is to do.

    Args:
        function: `module:function`, called as `function(run, options, lease, progress)`.
        run: the run.
        options: of the run.
        device: name of the slot, for people.
        token: of the lease that the process is to acquire.
        expired: token of a dead owner, whose lease is to be taken over.
        known: the record of an earlier attempt; any other is one that somebody else has made meanwhile.
    """

    function: str
    run: Run
    options: Options
    device: str
    token: str
    expired: str | None = None
    known: Result | None = None

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder.of(self.options.out, self.run)

    @property
    def current_token(self) -> str | None:
        """Token of the lease that was acquired for this order; a job that its cluster started again has added to it."""
        return current_token(self.folder, self.token)


@dataclass(frozen=True, slots=True)
class Done:
    """There is a record. `ours`: this attempt wrote it."""

    result: Result
    ours: bool = True


@dataclass(frozen=True, slots=True)
class Stopped:
    """A signal ended the run; it can be gone on with."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Another process holds the lease."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and its record could not be written. `passing`: one of passing.KINDS, or None."""

    reason: str
    passing: str | None


Ending = Done | Stopped | Busy | Failed


def attempt(order: Order, send: Callable[..., None]) -> Ending:
    """Carry out a run, if it is still to be done and nobody else does it. For a process of its own."""
    try:
        lease = acquire(order.folder, Owner(order.device, order.run.iterations), order.token, order.expired)
        if lease is None:
            return Busy()
        with lease, lease.heartbeat(lambda: os._exit(LOST)):
            try:
                return _held(order, lease, send)
            except OSError:
                if lease.held:
                    raise
                return Busy()  # the lease was taken over
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Failed(f"{type(error).__name__}: {error}", passing(error))


def _held(order: Order, lease: Lease, send: Callable[..., None]) -> Ending:
    with contextlib.suppress(OSError):
        os.truncate(order.folder.log, 0)  # it is this attempt's from here on
    # Only now: another may have finished it, or failed, between the scheduler's look and our lease.
    standing = _standing(lease)
    if standing is not None and (standing.final or standing != order.known):
        return Done(standing, ours=False)
    options = replace(order.options, history=_past(standing, order.options.history))

    def progress(iteration: int, accuracy: float | None) -> None:
        lease.report(iteration, accuracy)
        send(iteration, accuracy)

    result: Result | None = resolve(order.function)(order.run, options, lease, progress)
    if result is None:
        return Stopped()
    if result.final:
        lease.sweep()
    return Done(result)


def record_death(order: Order, reason: str, kind: str | None, seconds: float) -> Done | Busy:
    """Write the record of a run whose process is gone without one.

    Args:
        order: what it was to do.
        reason: how it ended.
        kind: one of passing.KINDS, or None.
        seconds: how long it ran.

    Raises:
        OSError: the record cannot be written.
    """
    expired = order.current_token or order.token
    lease = acquire(order.folder, Owner(order.device, order.run.iterations), expired=expired)
    if lease is None:
        return Busy()
    with lease:
        standing = _standing(lease)
        if standing is not None and (standing.final or standing != order.known):
            return Done(standing)  # it died after it had written its record
        commit, dirty = order.options.commit or provenance.commit()
        said = tail(order.folder.log)
        result = Result(
            run=order.run,
            status="error",
            test_accuracy=None,
            train_loss=None,
            iteration=0,
            init=[],
            seconds=seconds,
            images_per_second=None,
            data_label=order.run.dataset,
            fingerprint="unknown",
            commit=commit,
            dirty=dirty,
            versions=provenance.versions(),
            device=order.device,
            options=order.options.plain(),
            finished=now(),
            error=said if said.endswith(reason) else f"{said}\n{reason}",
            passing=kind,
            history=list(_past(standing, order.options.history)),
        )
        return Done(lease.write_result(result))


def now() -> str:
    """Tell the time for a record, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _past(standing: Result | None, unrecorded: tuple[Mapping[str, Any], ...]) -> tuple[Attempt, ...]:
    """Attempts before this one: those of the record that is there, itself, and those that left no record."""
    earlier: list[Mapping[str, Any]] = list(standing.history) if standing else []
    if standing:
        lines = (standing.error or "").strip().splitlines() or ["unknown"]
        earlier.append({"when": standing.finished, "reason": lines[-1][:200]})
    attempts = enumerate([*earlier, *unrecorded], start=1)
    return tuple(Attempt(when=one["when"], reason=one["reason"], attempt=number) for number, one in attempts)


def _standing(lease: Lease) -> Result | None:
    """Read the record that is there; one that cannot be used is set aside, under a name that is free."""
    try:
        return read_result(lease.folder.result)
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        print(f"{error}; set aside as {lease.set_aside(RESULT)}")
        return None

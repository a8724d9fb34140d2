"""An attempt at a run, under its claim: by the run's own process, or what the scheduler writes of one that died."""

import contextlib
import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from replicate import provenance
from replicate.matrix import claims
from replicate.matrix.local import resolve, tail
from replicate.matrix.owner import Owner
from replicate.options import Options
from replicate.passing import passing
from replicate.results import BadRecordError, Result, read
from replicate.run import Run

LOST = 75  # exit code of a process that lost its claim (EX_TEMPFAIL)


@dataclass(frozen=True, slots=True)
class Order:
    """What a process is to do.

    Args:
        function: `module:function`, called as `function(run, options, progress)`.
        run: the run.
        options: of the run.
        device: name of the slot, for people.
        token: of the claim that the process is to take.
        stale: token of a dead owner, whose claim is to be taken over.
        known: the record of an earlier attempt; any other is one that somebody else has made meanwhile.
    """

    function: str
    run: Run
    options: Options
    device: str
    token: str
    stale: str | None = None
    known: Result | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return folder_of(self.options.out, self.run)

    @property
    def standing(self) -> str | None:
        """Token of the claim that stands by this order; a job that its cluster started anew has added to it."""
        return claims.standing(self.folder, self.token)

    @property
    def log(self) -> Path:
        """File for what the process prints."""
        return self.folder / "log.txt"


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
    """Another process holds the claim."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed, and its record could not be written. `passing`: one of passing.KINDS, or None."""

    reason: str
    passing: str | None


Ending = Done | Stopped | Busy | Failed


def folder_of(out: Path, run: Run) -> Path:
    """Name the folder of a run."""
    return out / "runs" / run.run_id


def record_in(folder: Path) -> Result | None:
    """Read the record in a run's folder; None where there is none that can be read."""
    with contextlib.suppress(BadRecordError, OSError):
        return read(folder / "result.json")
    return None


def attempt(order: Order, send: Callable[..., None]) -> Ending:
    """Carry out a run, if it is still to be done and nobody else does it. For a process of its own."""
    try:
        holding = claims.take(order.folder, Owner(order.device, order.run.iterations), order.token, order.stale)
        if holding is None:
            return Busy()
        with holding, holding.beating(lambda: os._exit(LOST)):
            try:
                return _held(order, holding, send)
            except OSError:
                if holding.scratch.is_dir():
                    raise
                return Busy()  # the claim was taken over
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()
        return Failed(f"{type(error).__name__}: {error}", passing(error))


def _held(order: Order, holding: claims.Holding, send: Callable[..., None]) -> Ending:
    with contextlib.suppress(OSError):
        os.truncate(order.log, 0)  # it is this attempt's from here on
    # Only now: another may have finished it, or failed, between the scheduler's look and our claim.
    standing = _standing(order.folder)
    if standing is not None and (standing.final or standing != order.known):
        return Done(standing, ours=False)
    options = replace(order.options, scratch=holding.scratch, history=_past(standing, order.options.history))

    def progress(iteration: int, accuracy: float | None) -> None:
        holding.tell(iteration, accuracy)
        send(iteration, accuracy)

    result: Result | None = resolve(order.function)(order.run, options, progress)
    if result is None:
        return Stopped()
    if result.final:
        claims.sweep(order.folder)
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
    holding = claims.take(order.folder, Owner(order.device, order.run.iterations), stale=order.standing or order.token)
    if holding is None:
        return Busy()
    with holding:
        standing = _standing(order.folder)
        if standing is not None and (standing.final or standing != order.known):
            return Done(standing)  # it died after it had written its record
        commit, dirty = order.options.commit or provenance.commit()
        said = tail(order.log)
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
            history=[dict(entry) for entry in _past(standing, order.options.history)],
        )
        result.write(order.folder, holding.scratch)
        return Done(result)


def now() -> str:
    """Tell the time for a record, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _past(standing: Result | None, unrecorded: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
    """Attempts before this one: those of the record that stands, itself, and those that left no record."""
    earlier = list(standing.history) if standing else []
    if standing:
        lines = (standing.error or "").strip().splitlines() or ["unknown"]
        earlier.append({"when": standing.finished, "reason": lines[-1][:200]})
    return tuple({**entry, "attempt": number} for number, entry in enumerate([*earlier, *unrecorded], start=1))


def _standing(folder: Path) -> Result | None:
    """Read the record that stands; one that is none is set aside, under a name that is free."""
    path = folder / "result.json"
    try:
        return read(path)
    except FileNotFoundError:
        return None
    except BadRecordError as error:
        number = 1
        while (aside := path.with_name(f"{path.name}.set-aside-{number}")).exists():
            number += 1
        print(f"{error}; set aside as {aside.name}")
        os.rename(path, aside)
        return None

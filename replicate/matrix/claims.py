"""Claims: which process works on a run, so that many commands on many hosts do each run once.

A claim is the folder `RUN/claim/TOKEN/`, TOKEN a random word of its owner's. It holds `owner.json` (who, and how far)
and the files that the owner is still writing. Everything rests on `rename`, which is atomic on local and on network
file systems, where locks often are not:

- *Taking*: a whole `claim/TOKEN/owner.json` is built aside and renamed to `claim`. A folder can be renamed only onto
  nothing or onto an empty folder, so of many takers one succeeds, and no reader ever sees half a claim.
- *Taking over*: `claim/TOKEN` is renamed away by the name of the very owner that was found dead. Of many takers one
  finds it; a claim that was made since bears another token, and no one can take it by mistake.
- *Noticing the loss*: an owner writes each file inside its claim and renames it into the run's folder when it is whole.
  One that was only asleep (SIGSTOP, a closed laptop) finds that path gone: the file system itself refuses its record
  and its checkpoint. A check before the write could always be overtaken between the check and the write.
- *The process that trains is the owner*, not the scheduler that started it: a scheduler may be killed while its worker
  lives on for a while, and nobody must train beside it.

An owner of this very place (boot and process namespace: two containers of a host count apart) is dead if its process
is gone or is another one (its start time differs), and else alive, be it stopped. Of an owner elsewhere only its
heartbeat is known: it is dead once we have watched the heartbeat stand still for STALE_SECONDS, by our own monotonic
clock, counting only time in which we did look. No two clocks are compared: clocks differ between hosts, and jump. Where
a system does not tell when a process started (no /proc), the heartbeat decides for all.

Network file systems show other hosts' changes late, by up to a minute for names (acdirmax), hence STALE_SECONDS. The
claim lies in the run's own folder because taking it changes that folder, which makes a client look anew for a record
that another host has finished meanwhile.
"""

import contextlib
import errno
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from replicate.matrix import owner as owners
from replicate.matrix.owner import Owner

NAME = "claim"
BEAT_SECONDS = 5.0  # between two heartbeats
STALE_SECONDS = 120.0  # twice what a network file system may hide a heartbeat
LOOK_SECONDS = 5.0  # the longest time that one look at a heartbeat counts for: we may have been asleep ourselves


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim as found.

    Args:
        token: of its owner; empty where no folder but a file is in the claim's place.
        owner: None where `owner.json` cannot be read.
        stale: whether the owner is dead.
    """

    token: str
    owner: Owner | None
    stale: bool = False

    @property
    def holder(self) -> str:
        """The owner in words."""
        return "an unknown process" if self.owner is None else f"process {self.owner.pid} on {self.owner.host}"


class Watch:
    """Looks at claims again and again, and so learns which are stale.

    Args:
        seconds: a heartbeat that stands still for so long is a dead owner's; None: STALE_SECONDS.
        clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = STALE_SECONDS if seconds is None else seconds
        self._clock = clock
        self._seen: dict[Path, tuple[object, float, float]] = {}

    def look(self, folder: Path) -> Claim | None:
        """Find the claim of a run's folder; None: it is free."""
        path = folder / NAME
        try:
            token = next(iter(sorted(os.listdir(path))), None)
        except FileNotFoundError:
            token = None
        except NotADirectoryError:
            token = ""
        except OSError:  # a network file system out of reach: nothing can be told for now
            return Claim("", None)
        if token is None:
            self._seen.pop(folder, None)
            return None
        content, mark = b"", 0
        with contextlib.suppress(OSError):
            file = path / token / owners.FILE
            content, mark = file.read_bytes(), file.stat().st_mtime_ns
        owner = owners.parse(content)
        still = self._still(folder, (token, content, mark))
        alive = owner.alive if owner else None
        return Claim(token, owner, still >= self._seconds if alive is None else not alive)

    def _still(self, folder: Path, sign: object) -> float:
        """Seconds that we have watched this sign of life stand still."""
        now = self._clock()
        before, still, looked = self._seen.get(folder, (None, 0.0, now))
        still = still + min(now - looked, LOOK_SECONDS) if sign == before else 0.0
        self._seen[folder] = sign, still, now
        return still


class Holding:
    """A claim that this process holds. Use as a context manager: at its end the claim is given back.

    Args:
        folder: the run's.
        token: the claim's.
        owner: this process.
    """

    def __init__(self, folder: Path, token: str, owner: Owner) -> None:
        self.folder, self.token = folder, token
        self._owner = owner
        self._end = threading.Event()

    @property
    def scratch(self) -> Path:
        """Folder for files that are still being written; it is gone when the claim is."""
        return self.folder / NAME / self.token

    def __enter__(self) -> "Holding":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        drop(self.folder, self.token)

    @contextlib.contextmanager
    def beating(self, lost: Callable[[], None]) -> Iterator[None]:
        """Within, a thread renews the heartbeat; it calls `lost` and ends where the claim was taken over."""
        thread = threading.Thread(target=self._beat, args=(lost,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join()

    def tell(self, iteration: int, accuracy: float | None) -> None:
        """Note how far the run is, for the next heartbeat."""
        self._owner = replace(self._owner, iteration=iteration, test_accuracy=accuracy)

    def _beat(self, lost: Callable[[], None]) -> None:
        while not self._end.wait(BEAT_SECONDS):
            self._owner = replace(self._owner, beat=self._owner.beat + 1)
            try:
                self._owner.write(self.scratch)
            except FileNotFoundError:
                return lost()
            except OSError:  # a full disk: the time stamp is a sign of life that takes no room
                with contextlib.suppress(OSError):
                    os.utime(self.scratch / owners.FILE)


def take(folder: Path, owner: Owner, token: str | None = None, stale: str | None = None) -> Holding | None:
    """Claim a run.

    Args:
        folder: the run's; it is made.
        owner: who claims, with what there is to show.
        token: of the claim; None: a new one.
        stale: token of a dead owner, whose claim is to be taken over.

    Returns:
        The claim; None if another process holds one.

    Raises:
        OSError: the claim cannot be written.
    """
    token = token or new_token()
    folder.mkdir(parents=True, exist_ok=True)
    if stale is not None:
        drop(folder, stale)
    aside = folder / f"{NAME}-{token}.new"
    holding = Holding(folder, token, owner)
    try:
        (aside / token).mkdir(parents=True)
        owner.write(aside / token)
        with contextlib.suppress(OSError):
            os.rmdir(folder / NAME)  # some file systems rename a folder onto nothing only
        os.rename(aside, folder / NAME)
    except OSError as error:
        if holding.scratch.is_dir():  # the answer to the rename got lost on the network, and it was sent again
            return holding
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return None
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return holding


def drop(folder: Path, token: str) -> None:
    """Remove the claim of this token, if it still stands, and no other."""
    path = folder / NAME
    if not token:
        with contextlib.suppress(OSError):
            path.unlink()
        return
    aside = folder / f"{NAME}-{new_token()}.old"
    with contextlib.suppress(OSError):
        os.rename(path / token, aside)
        os.rmdir(path)
    shutil.rmtree(aside, ignore_errors=True)
    with contextlib.suppress(OSError):
        aside.unlink()  # some garbage that was no folder


def standing(folder: Path, token: str) -> str | None:
    """Find the token of the claim that stands, if it is this one or begins with it and a dot."""
    with contextlib.suppress(OSError):
        return next((name for name in os.listdir(folder / NAME) if name.partition(".")[0] == token), None)
    return None


def sweep(folder: Path) -> None:
    """Remove what killed processes have left beside a claim. For the owner, when the run is finished."""
    for path in folder.glob(f"{NAME}-*"):
        shutil.rmtree(path, ignore_errors=True)


def new_token() -> str:
    """Make up a token that nobody else has."""
    return secrets.token_hex(8)

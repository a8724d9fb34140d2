"""Local processes: each task in a process of its own, forked from a server that has torch loaded."""

import contextlib
import math
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from replicate.errors import KILLED, UsageError, transient_kind
from replicate.isolation import isolate
from replicate.names import resolve
from replicate.store.files import open_log, read_end

# A closed terminal sends SIGHUP; SLURM and submitit warn by the last two.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STOP_SECONDS = 60.0  # between asking a process to save its state and end, and killing it


@dataclass(frozen=True, slots=True)
class Progress:
    """A task has reported progress: the arguments with which it called `send`."""

    task: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """A task has ended.

    Args:
        task: its name.
        value: what it returned; or an exception: what it raised (a UsageError, or a RuntimeError that describes
            anything else), or how its process died.
        kind: of a transient error, one of errors.KINDS, or None.
        exit_code: of a process that died, negative if a signal killed it; None: it did not die.
    """

    task: str
    value: Any
    kind: str | None = None
    exit_code: int | None = None


class LocalLauncher:
    """Starts tasks in processes of their own and receives their events.

    The processes are forked from a server that has loaded `preload`, so each starts at once. They inherit that
    server's environment, hence the environment is an argument. A task's function takes the given arguments and `send`,
    a function that reports progress. Use as a context manager: no process outlives it.

    Args:
        preload: modules that the server loads, separated by spaces; they must not touch CUDA.
    """

    def __init__(self, preload: str) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["replicate.matrix.preload"])
        self._preload = preload
        self._running: dict[str, tuple[BaseProcess, Connection]] = {}
        self._not_started: list[Ended] = []

    def __enter__(self) -> "LocalLauncher":
        isolate()
        os.environ["REPLICATE_PRELOAD"] = self._preload
        # Signals wait until the server has started, which inherits that and then ignores them (`preload`): SLURM sends
        # its signals to all processes of a job, and without the server the scheduler would take the runs for dead.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            multiprocessing.forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, task: str, function: str, arguments: tuple[Any, ...], environment: Mapping[str, str], log: Path
    ) -> None:
        """Start a task.

        Args:
            task: its name, in its events.
            function: `module:function`, called as `function(*arguments, send)`.
            arguments: must pickle.
            environment: the whole environment of the process.
            log: file to which its standard output and error are appended.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        details = (task, function, arguments, dict(environment), log, theirs)
        process = self._context.Process(target=_child, args=details)
        try:
            process.start()
            self._running[task] = (process, ours)
        except (EOFError, OSError) as error:  # the server has died, after it has printed why, if it could
            module = self._preload.split()[0]
            problem = f"cannot load {module}: the process that loads it died ({error or type(error).__name__})"
            self._not_started.append(Ended(task, UsageError(problem)))
        theirs.close()  # so that the pipe ends when the process does

    def events(self, timeout: float) -> Iterator[Progress | Ended]:
        """Yield the events of the tasks, waiting at most `timeout` seconds for the first one."""
        if self._not_started:
            yield self._not_started.pop()
            return
        tasks = {pipe: (task, process) for task, (process, pipe) in self._running.items()}
        for pipe in wait(list(tasks), timeout):
            assert isinstance(pipe, Connection)
            task, process = tasks[pipe]
            try:
                event: Progress | Ended = pipe.recv()
            except (EOFError, OSError):
                process.join()
                event = _died(task, process.exitcode)
            if not isinstance(event, Progress):
                process.join()
                pipe.close()
                del self._running[task]
            yield event

    def stop(self, seconds: float = math.inf) -> None:
        """End all running tasks: send SIGTERM, and SIGKILL after `seconds`, or after STOP_SECONDS if that is less."""
        for process, _ in self._running.values():
            process.terminate()
        end = time.monotonic() + min(seconds, STOP_SECONDS)
        for process, pipe in self._running.values():
            process.join(max(0.0, end - time.monotonic()))
            process.kill()
            process.join()
            pipe.close()
        self._running.clear()


def _child(
    task: str, function: str, arguments: tuple[Any, ...], environment: dict[str, str], log: Path, pipe: Connection
) -> None:
    for number in SIGNALS:
        # A terminal sends these two to the whole process group; the parent decides what happens to the runs then.
        signal.signal(number, signal.SIG_IGN if number in (signal.SIGINT, signal.SIGHUP) else signal.SIG_DFL)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    try:
        # Not truncated: it may belong to another process, which only the task can find out.
        output = open_log(log)
    except OSError:  # a full disk; the task may still be able to report it
        output = os.open(os.devnull, os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)

    def send(*values: Any) -> None:
        try:
            pipe.send(Progress(task, values))
        except OSError:  # the parent is gone, and nobody else wants the result
            os._exit(1)

    try:
        from replicate.matrix import preload  # which the server has imported, and nobody else may

        if preload.failure:
            raise UsageError(preload.failure)
        event = Ended(task, resolve(function)(*arguments, send))
    except Exception as error:
        with contextlib.suppress(OSError):
            traceback.print_exc()  # to the log
        # Other exceptions may not survive pickling.
        known = error if isinstance(error, UsageError) else RuntimeError(f"{type(error).__name__}: {error}")
        event = Ended(task, known, transient_kind(error))
    with contextlib.suppress(OSError):
        pipe.send(event)


def _end_with_the_parent() -> None:
    """End this process when the one that started its task has ended, even by a kill; nobody wants its result."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    for rank in multiprocessing.active_children():  # one that is loading torch would notice too late
        rank.kill()
    os._exit(1)


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within, the SIGNALS interrupt nothing; the yielded function tells whether one has come.

    Within another `stoppable`, both functions count the same signals, so that none is lost between the two.
    """
    outer = [handler for number in SIGNALS if isinstance(handler := signal.getsignal(number), _Flag)]
    flag = outer[0] if outer else _Flag()
    with _handled_by(flag):
        yield lambda: flag.raised


class _Flag:
    """A signal handler that remembers that it was called."""

    raised = False

    def __call__(self, *_: object) -> None:
        self.raised = True


@contextlib.contextmanager
def _handled_by(handler: Callable[..., None] | signal.Handlers) -> Iterator[None]:
    # What was ignored at the start stays ignored: SIGHUP by nohup, SIGINT of what a script runs in the background.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _died(task: str, exit_code: int | None) -> Ended:
    if exit_code is None or exit_code >= 0:
        return Ended(task, RuntimeError(f"exit code {exit_code}"), exit_code=exit_code or 0)
    hint = " (out of memory, perhaps)" if exit_code == -signal.SIGKILL else ""
    return Ended(task, RuntimeError(f"killed by {signal.Signals(-exit_code).name}{hint}"), KILLED, exit_code)


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a task's log; empty if there is no log."""
    with contextlib.suppress(OSError):
        return "\n".join(read_end(log, below=log.parent).decode(errors="replace").splitlines()[-lines:])
    return ""

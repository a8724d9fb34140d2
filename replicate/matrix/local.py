"""The launcher for one machine: each task in a process of its own, forked from a server that has torch loaded."""

import contextlib
import importlib
import math
import multiprocessing as mp
import multiprocessing.forkserver
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from replicate.errors import UsageError
from replicate.matrix.signals import SIGNALS

STOP_SECONDS = 60.0  # between asking a process to save its state and end, and ending it


@dataclass(frozen=True, slots=True)
class Event:
    """News of a task: `progress` and `done` carry what it said, `failed` its exception, `died` its exit code."""

    kind: str
    task: str
    value: Any


class LocalLauncher:
    """Starts tasks in processes of their own and hears from them.

    The processes are forked from a server that has loaded `preload`, so each starts at once. They inherit that
    server's environment, hence the environment is an argument. A task's function takes the given arguments and `send`,
    a function that reports progress. Use as a context manager: at its end no process is left.

    Args:
        preload: module that the server loads; it must not touch CUDA.
    """

    def __init__(self, preload: str) -> None:
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload([preload])
        self._running: dict[str, tuple[BaseProcess, Connection]] = {}
        self._served = False

    def __enter__(self) -> "LocalLauncher":
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
            log: file to which its standard output and error are added.
        """
        if not self._served:
            _start_server()
            self._served = True
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(function, arguments, dict(environment), str(log), theirs))
        process.start()
        theirs.close()  # so that the pipe ends when the process does
        self._running[task] = (process, ours)

    def events(self, timeout: float) -> Iterator[Event]:
        """Yield what the tasks have to say within `timeout` seconds; a task's last event is done, failed or died."""
        pipes = {pipe: task for task, (_, pipe) in self._running.items()}
        for ready in wait(list(pipes), timeout):
            assert isinstance(ready, Connection)
            task = pipes[ready]
            try:
                kind, value = ready.recv()
            except (EOFError, OSError):
                process = self._forget(task)
                yield Event("died", task, process.exitcode)
                continue
            if kind != "progress":
                self._forget(task)
            yield Event(kind, task, value)

    def _forget(self, task: str) -> BaseProcess:
        process, pipe = self._running.pop(task)
        process.join()
        pipe.close()
        return process

    def stop(self, seconds: float = math.inf) -> None:
        """End every task that is still running, first asking, then (after so many seconds, if not before) not."""
        for process, _ in self._running.values():
            process.terminate()
        end = time.monotonic() + min(seconds, STOP_SECONDS)
        for process, pipe in self._running.values():
            process.join(max(0.0, end - time.monotonic()))
            if process.exitcode is None:
                process.kill()
                process.join()
            pipe.close()
        self._running.clear()


def _start_server() -> None:
    """Start the server deaf to signals: SLURM sends them to all processes, and who loses it believes the runs ended."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in SIGNALS}  # what is ignored stays so in a new program
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _child(function: str, arguments: tuple[Any, ...], environment: dict[str, str], log: str, pipe: Connection) -> None:
    for one in SIGNALS:
        # A terminal sends Ctrl-C to the whole group; what becomes of the runs then is for the parent to say.
        signal.signal(one, signal.SIG_IGN if one == signal.SIGINT else signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    try:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        # Added to, not emptied: it may be another process's, and whether it is, the task finds out.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError:  # a full disk, and no reason to die without a word
        output = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)

    def send(*value: Any) -> None:
        try:
            pipe.send(("progress", value))
        except OSError:  # the parent is gone, and with it everybody who wants the result
            os._exit(1)

    try:
        message = ("done", resolve(function)(*arguments, send))
    except Exception as error:  # carried to the parent, which knows what to do with it
        with contextlib.suppress(OSError):
            traceback.print_exc()  # to the log
        # Only what is known to survive the journey travels as it is; the traceback stands in the log.
        message = ("failed", error if isinstance(error, UsageError) else RuntimeError(repr(error)))
    with contextlib.suppress(OSError):
        pipe.send(message)


def resolve(function: str) -> Callable[..., Any]:
    """Import the function that `module:function` names."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def death(exit_code: int | None) -> str:
    """Say how a process died that did not come to its end."""
    if exit_code is not None and exit_code < 0:
        hint = " (out of memory, perhaps)" if -exit_code == signal.SIGKILL else ""
        return f"killed by {signal.Signals(-exit_code).name}{hint}"
    return f"exit code {exit_code}"


def tail(log: Path, lines: int = 20) -> str:
    """Last lines of a task's log; empty where there is none."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""

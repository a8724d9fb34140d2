"""Imported by the server of local processes: loads the modules in REPLICATE_PRELOAD, and keeps what goes wrong."""

import importlib
import os
import signal
import threading
import traceback

from replicate import provenance

for _number in signal.pthread_sigmask(signal.SIG_BLOCK, ()):  # `LocalLauncher` has blocked them
    signal.signal(_number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
_loaded, _parent = threading.Event(), os.getppid()


def _end_with_the_parent() -> None:
    """End the server if its parent ends while it loads modules, which may take long. Later, it notices by itself."""
    while not _loaded.wait(0.5):
        if os.getppid() != _parent:
            os._exit(1)


_watch = threading.Thread(target=_end_with_the_parent)
_watch.start()
failure = ""  # the first error; a second import in the same process may hide it behind another one
_loading = "replicate"
try:
    os.chdir("/")  # matplotlib reads a file of the current folder when it is imported; tasks return to theirs
    before = provenance.sources()
    for _loading in os.environ["REPLICATE_PRELOAD"].split():
        importlib.import_module(_loading)
    _loading = "replicate"
    if not before == provenance.code().sources == provenance.sources():
        raise RuntimeError("its files were changed meanwhile; give the command again")
except BaseException as error:  # the server must live to report it
    traceback.print_exc()
    failure = f"cannot load {_loading}: {type(error).__name__}: {error}"
_loaded.set()
_watch.join()  # no thread may run when the server forks

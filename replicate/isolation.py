"""Keeps settings that the shell has for other programs away from this process and from those that it starts."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import util
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
VARIABLES = ("PYTHONSAFEPATH", "PYTHONPATH", "PYTHONIOENCODING", "MPLBACKEND", "MATPLOTLIBRC")
LONGEST = 60  # bytes of a folder for temporary files in which a socket's name, of 107 at most, has room


def isolate() -> None:
    """Change the environment of this process, which later processes inherit. Calling it again changes nothing."""
    # Python would look for modules in the current folder first, where a file may have a library's name. An empty part
    # of PYTHONPATH means that folder too.
    os.environ["PYTHONSAFEPATH"] = "1"
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    from_here = ROOT in (os.path.abspath(sys.path[0]), sys.path[-1]) and not ROOT.endswith("-packages")
    if from_here and ROOT not in paths:
        paths.insert(0, ROOT)  # `python -m replicate` in a checkout; another one may be installed
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # A terminal or file that is not UTF-8 lacks characters such as ±.
    os.environ["PYTHONIOENCODING"] = f"{os.environ.get('PYTHONIOENCODING', '').partition(':')[0]}:replace"
    # Notebooks export a backend that only they can load, and settings may be unreadable; Lightning loads matplotlib.
    os.environ |= {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}
    with contextlib.suppress(FileNotFoundError):  # there is no folder for temporary files that can be written
        if len(os.fsencode(tempfile.gettempdir())) > LONGEST:
            # multiprocessing makes its folder for sockets once
            before, tempfile.tempdir = tempfile.tempdir, "/tmp"
            util.get_temp_dir()
            tempfile.tempdir = before


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """`isolate` until the end of the block, for a process that then does something else."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        isolate()
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value

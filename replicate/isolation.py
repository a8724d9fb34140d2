"""Keeps settings that the shell has for other programs away from this process and from those that it starts."""

import os
import sys
import tempfile
from multiprocessing import util
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
LONGEST = 60  # characters of a folder for temporary files in which a socket's name, of 107 at most, has room


def isolate() -> None:
    """Change the environment of this process, which later processes inherit. Calling it again changes nothing."""
    # Python would look for modules in the current folder first, where a file may have a library's name. An empty part
    # of PYTHONPATH means that folder too.
    os.environ["PYTHONSAFEPATH"] = "1"
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if ROOT in (sys.path[0], sys.path[-1]) and ROOT not in paths:
        paths.insert(0, ROOT)  # `python -m replicate` in a checkout; another one may be installed
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    # A terminal or file that is not UTF-8 lacks characters such as ±.
    os.environ["PYTHONIOENCODING"] = f"{os.environ.get('PYTHONIOENCODING', '').partition(':')[0]}:replace"
    # Notebooks export a backend that only they can load; Lightning loads matplotlib.
    os.environ["MPLBACKEND"] = "agg"
    if len(tempfile.gettempdir()) > LONGEST:
        # multiprocessing makes its folder for sockets once
        before, tempfile.tempdir = tempfile.tempdir, "/tmp"
        util.get_temp_dir()
        tempfile.tempdir = before

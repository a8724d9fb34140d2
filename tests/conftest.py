"""For every test: one thread a process, Ctrl-C that is heard, no clock that decides, and no summary of a CI job."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

os.environ.pop("GITHUB_STEP_SUMMARY", None)  # in CI, the tables of tests do not belong in the job's summary
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded: the nets are small, and other tests share the cores
# Where a shell starts the tests in the background, SIGINT is ignored, and processes hand that on to those they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a loaded machine any example may take a second.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Undo after each test what a command changes in the environment of its process, such as PYTHONSAFEPATH."""
    before = dict(os.environ)
    yield
    for name in ("PYTHONSAFEPATH", "PYTHONPATH", "PYTHONIOENCODING", "MPLBACKEND", "MATPLOTLIBRC"):
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]

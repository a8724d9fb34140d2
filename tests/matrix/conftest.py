"""A launcher. All tests share its server, which is started once and has torch loaded as in a real matrix."""

from collections.abc import Iterator

import pytest

from replicate.matrix.local import LocalLauncher
from replicate.matrix.task import PRELOAD


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalLauncher]:
    monkeypatch.setattr("replicate.matrix.local.STOP_SECONDS", 0.2)  # some tasks ignore the polite signal
    with LocalLauncher(preload=PRELOAD) as launcher:
        yield launcher

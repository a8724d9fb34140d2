"""A launcher whose server loads next to nothing."""

from collections.abc import Iterator

import pytest

from replicate.matrix.local import LocalLauncher


@pytest.fixture
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher(preload="workers") as launcher:
        yield launcher

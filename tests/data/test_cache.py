import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from replicate.data.cache import Entry, folder, get_or_create
from replicate.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


DAMAGE: list[Callable[[Path], object]] = [
    Path.unlink,
    flip_a_byte,
    lambda path: path.write_bytes(path.read_bytes()[:5000]),
    lambda path: np.save(path, IMAGES.view(np.int8)),
    lambda path: path.with_suffix(".json").write_text("[]"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", DAMAGE)
def test_of_several_at_once_one_creates_and_again_if_damaged(cache_dir: Path, damage: Callable[[Path], object]) -> None:
    calls = []

    def create() -> Entry:
        calls.append(1)
        time.sleep(0.01)  # gives other threads a chance
        return IMAGES, "f" * 64

    for count in (1, 2):
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: get_or_create("key", create), range(4)))
        images, fingerprint = get_or_create("key", create)
        np.testing.assert_array_equal(images, IMAGES)
        assert fingerprint == "f" * 64
        assert isinstance(images, np.memmap)
        assert not images.flags.writeable
        assert len(calls) == count
        assert sorted(os.listdir(cache_dir)) == ["key.json", "key.npy"]
        damage(cache_dir / "key.npy")


def test_where_nothing_can_be_written_it_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", "/dev/null/cache")
    with pytest.warns(UserWarning, match="cannot cache the decoded images .* set REPLICATE_CACHE"):
        images, _ = get_or_create("key", lambda: (IMAGES, "f" * 64))
    np.testing.assert_array_equal(images, IMAGES)


def test_the_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    monkeypatch.setenv("REPLICATE_CACHE", "/fast/disk")
    assert folder() == Path("/fast/disk")
    monkeypatch.delenv("REPLICATE_CACHE")
    assert folder() == Path("/var/xdg/lsuv-replication")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert folder() == Path("/home/someone/.cache/lsuv-replication")
    # as in a container whose user has no entry in /etc/passwd
    monkeypatch.setattr(Path, "home", Mock(side_effect=RuntimeError("Could not determine home directory.")))
    with pytest.raises(UsageError, match="set REPLICATE_CACHE"):
        folder()

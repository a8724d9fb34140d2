import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from replicate.data import cache
from replicate.data.dataset import Images
from replicate.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


class Maker:
    """Counts how often it had to make the images."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[str, Images, cache.Facts]:
        self.calls += 1
        return "content", IMAGES, {"fingerprint": "f"}


def test_made_once_and_then_mapped_into_memory():
    maker = Maker()
    for _ in range(3):
        images, facts = cache.remember("key", maker)
        np.testing.assert_array_equal(images, IMAGES)
        assert facts == {"fingerprint": "f"}
    assert maker.calls == 1
    assert isinstance(images, np.memmap)
    assert not images.flags.writeable


def test_keys_of_the_same_content_share_one_array(cache_dir: Path):
    maker = Maker()
    cache.remember("one", maker)
    cache.remember("two", maker)
    assert maker.calls == 2
    assert [path.name for path in (cache_dir / "arrays").iterdir()] == ["content.npy"]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


DAMAGE: list[tuple[str, Callable[[Path], object]]] = [
    ("arrays/content.npy", flip_a_byte),
    ("arrays/content.npy", lambda path: path.write_bytes(path.read_bytes()[:5000])),
    ("arrays/content.npy", lambda path: path.write_bytes(b"")),
    ("arrays/content.npy", lambda path: np.save(path, IMAGES[:4])),
    ("arrays/content.npy", lambda path: np.save(path, IMAGES.view(np.int8))),
    ("arrays/content.npy", Path.unlink),
    ("index/key.json", lambda path: path.write_text('{"array": "content')),
    ("index/key.json", lambda path: path.write_text("{}")),
    ("index/key.json", lambda path: path.write_text("7")),
    ("index/key.json", lambda path: path.write_bytes(b"\xff\xfe")),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_damage_is_noticed_and_mended(cache_dir: Path, name: str, damage: Callable[[Path], object]):
    maker = Maker()
    cache.remember("key", maker)
    damage(cache_dir / name)
    for _ in range(2):
        images, _ = cache.remember("key", maker)
        np.testing.assert_array_equal(images, IMAGES)
    assert maker.calls == 2


def test_an_array_in_use_survives_its_replacement(cache_dir: Path):
    cache.remember("key", Maker())
    mapped, _ = cache.remember("key", Maker())
    (cache_dir / "index" / "key.json").unlink()
    cache.remember("key", lambda: ("content", IMAGES + 1, {}))
    np.testing.assert_array_equal(mapped, IMAGES)


def test_without_a_place_to_write_it_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="cannot be cached .* set REPLICATE_CACHE"):
        images, _ = cache.remember("key", Maker())
    np.testing.assert_array_equal(images, IMAGES)


FULL = """
import resource, numpy as np
from replicate.data import cache
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no file may grow beyond 4 kB
images, _ = cache.remember("key", lambda: ("content", np.ones((5, 3, 32, 32), np.uint8), {}))
assert images.sum() == 5 * 3072
"""


def test_a_full_disk_leaves_nothing_half_written(cache_dir: Path):
    done = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be cached" in done.stderr
    assert [path for path in cache_dir.rglob("*") if path.is_file()] == []


def test_no_warning_where_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.remember("key", Maker())


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    monkeypatch.setenv("REPLICATE_CACHE", "/fast/disk")
    assert cache.folder() == Path("/fast/disk")
    monkeypatch.delenv("REPLICATE_CACHE")
    assert cache.folder() == Path("/var/xdg/lsuv-replication")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.folder() == Path("/home/someone/.cache/lsuv-replication")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("REPLICATE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)  # who has no home cannot be had without another user
    with pytest.raises(UsageError, match="set REPLICATE_CACHE"):
        cache.folder()

"""Versions, disks, data sets and W&B."""

from pathlib import Path

import pytest

from replicate.doctor import surroundings
from replicate.doctor.surroundings import data, places, room, versions, wandb

KEY = "a" * 40


def test_versions_name_code_and_libraries() -> None:
    texts = [one.text for one in versions()]
    assert texts[0].startswith("code: ")
    assert {text.split()[0] for text in texts[1:]} >= {"python", "torch", "pytorch-lightning", "lsuv-replication"}


def test_disks_that_are_full_or_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    good, bad = room({"results": tmp_path / "not" / "yet", "data": tmp_path / "file" / "data"})
    assert good.text.startswith(f"results: {tmp_path / 'not' / 'yet'}, ")
    assert good.text.endswith(" GiB free")
    assert (bad.text, bad.good) == (f"data: {tmp_path / 'file'} is no folder", False)
    monkeypatch.setattr(surroundings, "LEAST_ROOM", float("inf"))
    (full,) = room({"results": tmp_path})
    assert (full.good, full.mend) == (False, "make room, or name another folder for results")
    monkeypatch.setattr(surroundings.os, "access", lambda path, mode: False)  # root may write anywhere
    (closed,) = room({"results": tmp_path})
    assert closed.text.endswith("GiB free, not writable")


def test_the_folders_that_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    assert list(places(tmp_path, tmp_path / "data").values()) == [tmp_path, tmp_path / "data", tmp_path / "cache"]


def test_data_sets_there_and_missing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / "mine" / split).mkdir(parents=True)
    cifar10, synthetic, mine = data(tmp_path)
    assert (cifar10.text, cifar10.good) == (f"cifar10: not in {tmp_path}", None)
    assert "downloaded at first use" in cifar10.mend
    assert (synthetic.good, mine.text, mine.good) == (True, "folder:mine: there", True)


def test_wandb_tells_the_mode_and_never_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CI", "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (none,) = wandb()
    assert none.text.endswith("mirrored offline; key for api.wandb.ai unknown")
    assert none.mend.startswith("`wandb login`")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "https://user:secret@wandb.example.org")
    (known,) = wandb()
    assert known.text.endswith("mirrored offline; key for wandb.example.org known")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (off,) = wandb()
    assert "mirrored off, as WANDB_MODE is 'disabled'" in off.text
    assert not any(word in one.text + one.mend for one in (none, known, off) for word in (KEY, "secret"))

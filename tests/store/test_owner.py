"""Owners of leases: what is written reads back, who is dead, and which leases have expired."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.store import owner
from replicate.store.lease import acquire, remove_expired
from replicate.store.owner import LOOK_SECONDS, LeaseWatch, Owner, parse_owner
from replicate.store.run_folder import OWNER, RunFolder

ME = Owner("cpu", 10)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by the monotonic clock, which tests change; an owner elsewhere is dead after 12 seconds."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(owner, "STALE_SECONDS", 12.0)
    return now


def test_an_owner_reads_back_and_odd_ones_do_not() -> None:
    for one in (ME, replace(ME, iteration=5, test_accuracy=12.5, beat=3), replace(ME, start=None, stage="x")):
        assert parse_owner(one.to_json().encode()) == one
    plain = json.loads(ME.to_json())
    # Other versions read these names.
    assert " ".join(plain) == "device iterations iteration test_accuracy stage beat host pid place start"
    without = {name: value for name, value in plain.items() if name != "stage"}  # as the first version wrote it
    assert parse_owner(json.dumps(without).encode()) == ME
    for change in ({"host": "\x1b[31m"}, {"pid": True}, {"iteration": None}, {"more": 1}, {"beat": float("nan")}):
        assert parse_owner(json.dumps(plain | change).encode()) is None


@given(st.binary() | st.dictionaries(st.text(), st.integers()).map(lambda d: json.dumps(d).encode()))
def test_whatever_the_bytes_they_are_an_owner_or_none(content: bytes) -> None:
    assert parse_owner(content) is None


def test_which_owners_are_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ME.alive is True
    assert replace(ME, start="1").alive is False  # the process id is another process's now
    assert replace(ME, pid=2**22 + 1).alive is False
    assert replace(ME, place="another boot").alive is None
    assert replace(ME, start=None).alive is None
    monkeypatch.setattr(owner, "process_start_time", lambda pid: None)  # hidden by /proc, or gone
    assert ME.alive is False
    monkeypatch.setattr(os, "kill", Mock(side_effect=PermissionError))
    assert ME.alive is None


def test_clocks_that_differ_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
    monkeypatch.setattr(time, "time", iter([1e9, 2e9, -5.0] * 1000).__next__)
    watch, elsewhere = LeaseWatch(), replace(ME, place="elsewhere")
    file = acquire(RunFolder(tmp_path), elsewhere).staging_dir / OWNER

    def expired(seconds: float = 0) -> bool:
        now[0] += seconds
        return watch.look(RunFolder(tmp_path)).expired

    for stamp in (0, 4e9):  # 1970 and 2096: a beat is any change
        os.utime(file, (stamp, stamp))
        assert [expired(), expired(5)] == [False, False]
    assert LOOK_SECONDS == 5
    assert not expired(1000)  # we were asleep ourselves: a look counts for LOOK_SECONDS at most
    file.write_text(replace(elsewhere, beat=1).to_json())
    assert [expired(), expired(5), expired(5), expired(2)] == [False, False, False, True]


@pytest.mark.parametrize("name", ["x/owner.json", "x"])
def test_garbage_where_a_lease_should_be_expires(tmp_path: Path, name: str, now: list[float]) -> None:
    folder, watch = RunFolder(tmp_path), LeaseWatch()
    path = folder.lease / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff garbage")
    for now[0] in (0, 5, 10, 12):
        info = watch.look(folder)
        assert (info.owner, info.expired, info.holder) == (None, now[0] == 12, "an unknown process")
        assert acquire(folder, ME) is None
    assert remove_expired(folder, info) is None
    assert acquire(folder, ME, "mine") is not None
    assert watch.look(folder).token == "mine"
    assert list(tmp_path.iterdir()) == [folder.lease]

"""Owners of leases: what is written reads back, who is dead, and which leases have expired."""

import json
import os
import pwd
import socket
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import KINDS, make_odd
from permissions import restricted

from replicate.store import owner
from replicate.store.lease import acquire, remove_expired
from replicate.store.owner import LOOK_SECONDS, LeaseInfo, LeaseWatch, Owner, parse_owner
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
    odd = ({"host": "\x1b[31m"}, {"pid": True}, {"iteration": None}, {"more": 1}, {"beat": float("nan")})
    for change in (*odd, {"place": "x" * 1001}, {"start": "\n"}, {"beat": 10**400}, {"stage": "\ud800"}):
        assert parse_owner(json.dumps(plain | change).encode()) is None


def test_an_owner_on_a_host_with_an_odd_name_reads_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a\x1b\udcff")
    monkeypatch.setattr(os, "readlink", Mock(side_effect=OSError))  # so that the name is the place, too
    one = Owner("cpu", 10)
    assert parse_owner(one.to_json().encode()) == one
    assert (one.host, one.place) == (r"a\x1b\udcff", r"a\x1b\udcff")


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


@pytest.mark.parametrize(
    ("name", "kind"), [("x/owner.json", "garbage"), ("x", "garbage"), *(("x/owner.json", kind) for kind in KINDS)]
)
def test_garbage_where_a_lease_should_be_expires(tmp_path: Path, name: str, kind: str, now: list[float]) -> None:
    folder, watch = RunFolder(tmp_path / "run"), LeaseWatch()
    path = folder.lease / name
    make_odd(path, kind, tmp_path / "victim")
    if kind == "garbage":
        path.write_bytes(b"\xff garbage")
    for now[0] in (0, 5, 10, 12):
        info = watch.look(folder)
        assert (info.owner, info.expired, info.holder) == (None, now[0] == 12, "an unknown process")
        assert acquire(folder, ME) is None
    assert remove_expired(folder, info) is None
    assert acquire(folder, ME, "mine") is not None
    assert watch.look(folder).token == "mine"
    assert list(folder.path.iterdir()) == [folder.lease]


def test_a_link_is_no_lease_and_nothing_where_it_leads_is_removed(tmp_path: Path) -> None:
    folder, theirs = RunFolder(tmp_path / "run"), tmp_path / "theirs"
    for path in (folder.path, theirs):
        path.mkdir()
    (theirs / "precious").touch()
    folder.lease.symlink_to(theirs)
    assert LeaseWatch().look(folder) is None
    assert acquire(folder, ME) is not None
    assert (theirs / "precious").exists()


def test_a_lease_that_only_another_user_can_read(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert acquire(folder, ME, "mine") is not None
    with restricted(folder.lease, mode=0o111):
        info = LeaseWatch().look(folder)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert (info.expired, info.problem) == (False, f"only the user {me} can read {folder.lease}")
    assert info.holder == info.problem
    with restricted(folder.path, mode=0):  # the lease cannot even be looked at
        assert LeaseWatch().look(folder) == info


def test_a_heartbeat_that_cannot_be_read_is_one(tmp_path: Path, now: list[float]) -> None:
    """Another user's umask hides the content of the file, but not its time."""
    folder, watch = RunFolder(tmp_path), LeaseWatch()
    assert acquire(folder, ME, "mine") is not None
    file = folder.lease / "mine" / OWNER
    file.chmod(0)
    (tmp_path / "other").mkdir()
    with restricted(tmp_path / "other"):  # without root's right to read everything
        for now[0] in (0, 5, 10, 15, 20):
            os.utime(file, ns=(0, int(now[0] * 10**9)))
            assert watch.look(folder) == LeaseInfo("mine", None)
        for now[0] in (25, 30, 35):
            expired = watch.look(folder).expired
    assert expired

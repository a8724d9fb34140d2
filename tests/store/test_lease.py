"""Claims, between real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.store.lease import NAME, OWNER, acquire, release
from replicate.store.owner import Owner, parse_owner, process_start_time
from replicate.store.run_folder import RunFolder
from replicate.store.watch import LOOK_SECONDS, LeaseWatch

LEASEHOLDER = Path(__file__).parents[1] / "leaseholder.py"
ME = Owner("cpu", 10)


def leaseholder(*words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(LEASEHOLDER.parents[1])}
    return subprocess.Popen([sys.executable, str(LEASEHOLDER), *map(str, words)], env=environment)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_claim_is_held_by_one_and_given_back(tmp_path: Path) -> None:
    watch = LeaseWatch()
    assert watch.look(RunFolder(tmp_path / "run")) is None
    with acquire(RunFolder(tmp_path / "run"), ME, "mine") as holding:
        assert acquire(RunFolder(tmp_path / "run"), ME) is None
        found = watch.look(RunFolder(tmp_path / "run"))
        assert (found.token, found.owner, found.expired) == ("mine", ME, False)
        assert found.holder == f"process {os.getpid()} on {ME.host}"
        holding.write("file", "text")
    assert watch.look(RunFolder(tmp_path / "run")) is None
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["file"]


def test_many_processes_race_and_die_and_never_two_hold_one(tmp_path: Path) -> None:
    racing = [leaseholder("race", tmp_path, number) for number in range(6)]
    for process in racing:
        assert process.wait(300) == 0
    assert not list(tmp_path.glob("both-*"))
    assert list(tmp_path.glob("held-*"))
    for run in ("run0", "run1"):
        assert not list((tmp_path / run).glob("*.tmp"))


def test_of_many_that_claim_at_the_same_instant_one_wins(tmp_path: Path) -> None:
    for process in [leaseholder("start", tmp_path, number) for number in range(4)]:
        assert process.wait(300) == 0
    folders = list(tmp_path.iterdir())
    assert folders
    for folder in folders:
        (winner,) = folder.glob("won-*")
        assert [path.name for path in (folder / NAME).iterdir()] == [winner.name.removeprefix("won-")]


def test_of_many_takers_of_a_dead_owners_claim_one_succeeds(tmp_path: Path) -> None:
    dead = replace(ME, start="1")
    for number in range(20):
        folder = tmp_path / str(number)
        assert acquire(RunFolder(folder), dead, "dead") is not None
        assert LeaseWatch().look(RunFolder(folder)).expired
        first = acquire(RunFolder(folder), ME, "first", expired="dead")
        assert first is not None
        assert (
            acquire(RunFolder(folder), ME, "second", expired="dead") is None
        )  # it judged the dead one, and must not hit the first
        assert first.staging_dir.is_dir()
    assert [path.name for path in folder.iterdir()] == [NAME]


def test_an_owner_is_judged_by_its_process(tmp_path: Path) -> None:
    process = leaseholder("hold", tmp_path, "a")
    watch = LeaseWatch()
    wait_for(lambda: (claim := watch.look(RunFolder(tmp_path))) and claim.owner and claim.owner.iteration > 0)
    owner = watch.look(RunFolder(tmp_path)).owner
    assert (owner.pid, owner.start) == (process.pid, process_start_time(process.pid))
    os.kill(process.pid, signal.SIGSTOP)
    # asleep, and nothing else is known of it: it will go on
    assert LeaseWatch(seconds=0).look(RunFolder(tmp_path)).expired is False
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: process_start_time(process.pid) is None)  # a mere exit code now, which nobody has asked for
    assert watch.look(RunFolder(tmp_path)).expired
    process.wait()
    assert watch.look(RunFolder(tmp_path)).expired
    assert replace(owner, pid=os.getpid()).alive is False  # the number is another process's now
    assert replace(owner, place="another boot").alive is None
    assert replace(owner, start=None).alive is None


def test_an_owner_elsewhere_that_only_slept_finds_its_claim_gone(tmp_path: Path) -> None:
    process = leaseholder("hold", tmp_path, "sleeper", "elsewhere")
    watch = LeaseWatch(seconds=0.5)
    wait_for((tmp_path / "record").exists)
    assert watch.look(RunFolder(tmp_path)).expired is False
    os.kill(process.pid, signal.SIGSTOP)
    wait_for(lambda: watch.look(RunFolder(tmp_path)).expired)
    holding = acquire(RunFolder(tmp_path), ME, expired=watch.look(RunFolder(tmp_path)).token)
    assert holding is not None
    holding.write("record", "taker")
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(300) == 0
    assert (tmp_path / "refused-sleeper").exists()
    assert (tmp_path / "record").read_text() == "taker"
    assert watch.look(RunFolder(tmp_path)).token == holding.token  # the sleeper gave back nothing that was not its own
    assert {path.name for path in tmp_path.iterdir()} <= {"record", NAME, "refused-sleeper", "lost-sleeper"}


def test_the_heartbeat_notices_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.store.lease.HEARTBEAT_SECONDS", 0.01)
    lost: list[bool] = []
    with acquire(RunFolder(tmp_path), ME) as holding, holding.heartbeat(lambda: lost.append(True)):
        release(RunFolder(tmp_path), holding.token)
        wait_for(lambda: lost)


def test_clocks_that_differ_or_jump_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", iter([1e9, 2e9, -5.0] * 1000).__next__)
    now = [0.0]
    watch = LeaseWatch(seconds=12, clock=lambda: now[0])
    foreign = replace(ME, place="elsewhere")
    holding = acquire(RunFolder(tmp_path), foreign)
    file = holding.staging_dir / OWNER
    for stamp in (0, 4e9):  # 1970 and 2096: a beat is any change
        os.utime(file, (stamp, stamp))
        assert watch.look(RunFolder(tmp_path)).expired is False
        now[0] += 5
        assert watch.look(RunFolder(tmp_path)).expired is False
    now[0] += 1000  # we were asleep ourselves: a look counts for LOOK_SECONDS at most
    assert LOOK_SECONDS == 5
    assert watch.look(RunFolder(tmp_path)).expired is False
    (holding.staging_dir / OWNER).write_text(replace(foreign, beat=1).to_json())
    assert watch.look(RunFolder(tmp_path)).expired is False
    for _ in range(2):
        now[0] += 5
        assert watch.look(RunFolder(tmp_path)).expired is False
    now[0] += 2
    assert watch.look(RunFolder(tmp_path)).expired


@pytest.mark.parametrize("garbage", ["owner", "token", "claim"])
def test_garbage_in_a_claims_place_is_taken_over_in_time(tmp_path: Path, garbage: str) -> None:
    path = {"owner": tmp_path / NAME / "x" / OWNER, "token": tmp_path / NAME / "x", "claim": tmp_path / NAME}[garbage]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff garbage")
    now = [0.0]
    watch = LeaseWatch(seconds=5, clock=lambda: now[0])
    claim = watch.look(RunFolder(tmp_path))
    assert (claim.owner, claim.expired, claim.holder) == (None, False, "an unknown process")
    assert acquire(RunFolder(tmp_path), ME) is None
    now[0] = 5
    claim = watch.look(RunFolder(tmp_path))
    assert claim.expired
    assert acquire(RunFolder(tmp_path), ME, "mine", expired=claim.token) is not None
    assert watch.look(RunFolder(tmp_path)).token == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_what_killed_takers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}-1.new" / "1").mkdir(parents=True)
    (tmp_path / f"{NAME}-2.old").mkdir()
    with acquire(RunFolder(tmp_path), ME) as holding:
        holding.sweep()
        assert holding.staging_dir.is_dir()
        assert [path.name for path in tmp_path.iterdir()] == [NAME]


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.dictionaries(st.text(), st.integers()).map(lambda d: repr(d).encode()))
def test_whatever_bytes_stand_there_they_are_an_owner_or_none(content: bytes) -> None:
    assert parse_owner(content) is None


def test_an_owner_reads_back_as_it_was_and_odd_ones_are_none() -> None:
    for owner in (ME, replace(ME, iteration=5, test_accuracy=12.5, beat=3), replace(ME, start=None)):
        assert parse_owner(owner.to_json().encode()) == owner
    plain = json.loads(ME.to_json())
    for odd in ({"host": "\x1b[31m"}, {"pid": "1"}, {"pid": True}, {"iteration": None}, {"more": 1}):
        assert parse_owner(json.dumps(plain | odd).encode()) is None
    assert parse_owner(json.dumps(plain | {"test_accuracy": float("nan")}).encode()) is None


def test_without_the_lease_nothing_is_written(tmp_path: Path) -> None:
    with acquire(RunFolder(tmp_path), ME) as lease:
        lease.write("file", "mine")
        release(RunFolder(tmp_path), lease.token)
        with acquire(RunFolder(tmp_path), ME) as usurper:
            for change in (lease.remove, lease.set_aside, lambda name: lease.write(name, "late")):
                with pytest.raises(FileNotFoundError):
                    change("file")
            assert (lease.held, usurper.held) == (False, True)
            assert (tmp_path / "file").read_text() == "mine"
            usurper.write("file", b"bytes")
            assert (tmp_path / "file").read_bytes() == b"bytes"
            assert [usurper.set_aside("file"), usurper.write("file", "").name] == ["file.set-aside-1", "file"]
            assert usurper.set_aside("file") == "file.set-aside-2"
            usurper.remove("file")  # there is none
            assert [path.name for path in usurper.staging_dir.iterdir()] == [OWNER]

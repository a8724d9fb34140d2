"""Leases, between real processes."""

import errno
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from slurm_cluster import wait

from replicate.store import owner
from replicate.store.lease import acquire, release, remove_expired
from replicate.store.owner import LeaseWatch, Owner, process_start_time
from replicate.store.run_folder import LEASE, RunFolder

LEASEHOLDER = Path(__file__).parents[1] / "leaseholder.py"
ME = Owner("cpu", 10)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def leaseholder(*words: object) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(LEASEHOLDER.parents[1])}
    return subprocess.Popen([sys.executable, str(LEASEHOLDER), *map(str, words)], env=environment)


def test_a_lease_is_held_by_one_and_released(tmp_path: Path) -> None:
    folder, watch = RunFolder(tmp_path / "run"), LeaseWatch()
    assert watch.look(folder) is None
    with acquire(folder, ME, "mine") as lease:
        assert acquire(folder, ME) is None
        (folder.path / f"{LEASE}-1.new" / "1").mkdir(parents=True)
        (folder.path / f"{LEASE}-2.old").mkdir()
        lease.sweep()  # what killed processes have left
        found = watch.look(folder)
        assert (found.token, found.owner, found.expired) == ("mine", ME, False)
        assert found.holder == f"process {os.getpid()} on {ME.host}"
        lease.write("file", "text")
    assert watch.look(folder) is None
    assert os.listdir(folder.path) == ["file"]
    folder.lease.touch()  # a file is no lease
    assert watch.look(folder) is None
    assert acquire(folder, ME).held


def test_many_processes_race_and_die_and_never_two_hold_one(tmp_path: Path) -> None:
    for process in [leaseholder("race", tmp_path, number) for number in range(6)]:
        assert process.wait(300) == 0
    assert not list(tmp_path.glob("both-*"))
    assert list(tmp_path.glob("held-*"))
    assert not list(tmp_path.glob("run?/*.tmp"))


def test_of_many_that_take_over_from_a_dead_owner_one_succeeds(folder: RunFolder) -> None:
    assert acquire(folder, replace(ME, start="1"), "dead") is not None
    dead = LeaseWatch().look(folder)
    assert dead.expired
    assert acquire(folder, ME, "second") is None
    assert remove_expired(folder, dead) is None
    first = acquire(folder, ME, "first")
    assert first is not None
    # The second has found the same owner dead, and must not remove the first one's lease.
    assert remove_expired(folder, dead) is None
    assert acquire(folder, ME, "second") is None
    assert first.held
    assert os.listdir(folder.path) == [LEASE]


def test_a_lease_that_cannot_be_removed_is_a_problem(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert acquire(folder, replace(ME, start="1"), "dead") is not None
    dead = LeaseWatch().look(folder)
    monkeypatch.setattr(os, "rename", Mock(side_effect=OSError(errno.EBUSY, "Device or resource busy")))
    left = remove_expired(folder, dead)
    assert ", which is gone, and cannot be removed (Device or resource busy); it belongs to the user " in left.problem
    monkeypatch.setattr(os, "rename", Mock(side_effect=FileNotFoundError))  # another process was faster
    assert remove_expired(folder, dead) is None


def test_an_owner_is_judged_by_its_process(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    process, watch = leaseholder("hold", folder.path, "a"), LeaseWatch()
    wait(lambda: (info := watch.look(folder)) and info.owner and info.owner.iteration > 0, "a heartbeat")
    found = watch.look(folder).owner
    assert (found.pid, found.start) == (process.pid, process_start_time(process.pid))
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(owner, "STALE_SECONDS", 0.0)
    assert LeaseWatch().look(folder).expired is False  # asleep: it will continue
    os.kill(process.pid, signal.SIGKILL)
    wait(lambda: process_start_time(process.pid) is None, "a zombie")
    assert watch.look(folder).expired
    process.wait()
    assert watch.look(folder).expired


def test_an_owner_elsewhere_that_slept_finds_its_lease_gone(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "STALE_SECONDS", 0.5)
    process, watch = leaseholder("hold", folder.path, "sleeper", "elsewhere"), LeaseWatch()
    wait((folder.path / "record").exists, "a record")
    assert watch.look(folder).expired is False
    os.kill(process.pid, signal.SIGSTOP)
    wait(lambda: watch.look(folder).expired, "the lease to expire")
    remove_expired(folder, watch.look(folder))
    lease = acquire(folder, ME)
    assert lease is not None
    lease.write("record", "taker")
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(300) == 0
    assert (folder.path / "record").read_text() == "taker"
    assert watch.look(folder).token == lease.token  # the sleeper released only its own lease
    assert {"refused-sleeper"} <= set(os.listdir(folder.path)) <= {"record", LEASE, "refused-sleeper", "lost-sleeper"}


def test_a_lost_lease_is_noticed_and_nothing_is_written(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicate.store.lease.HEARTBEAT_SECONDS", 0.01)
    lost = threading.Event()
    with acquire(folder, ME) as lease, lease.heartbeat(lost.set):
        lease.write("file", "mine")
        release(folder, lease.token)
        assert lost.wait(300)
        with acquire(folder, ME) as usurper:
            for change in (lease.remove, lease.set_aside, lambda name: lease.write(name, "late")):
                with pytest.raises(FileNotFoundError):
                    change("file")
            assert (lease.held, usurper.held) == (False, True)
            assert (folder.path / "file").read_text() == "mine"

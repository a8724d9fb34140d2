"""experiments/gpu_slot.py: a slot from end to end on the CPU, and its faults with programs that only pretend."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gpu_slot
import gpu_slot_pack
import gpu_slot_production
import gpu_slot_stages
import numpy as np
import pytest
from gpu_slot_plans import PLANS
from gpu_slot_state import Slot, is_running, start_time
from PIL import Image

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "gpu_slot.py"
NAMES = {"report.json", "report.txt", "records.tar.gz", "logs.tar.gz", "profile.txt", "bench.md"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images as a folder data set, packed."""
    path = tmp_path_factory.mktemp("images") / "cifar10-drawn.tar.xz"
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:xz") as file:
        for index in range(200):
            image = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(image, "PNG")
            split, kind = "test" if index % 5 == 0 else "train", ("cat", "dog")[index % 2]
            entry = tarfile.TarInfo(f"{split}/{kind}/{index:04}.png")
            entry.size = image.tell()
            file.addfile(entry, io.BytesIO(image.getvalue()))
    return path


def command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False
    )


def test_a_rehearsal_from_begin_to_go_on(archive: Path, tmp_path: Path) -> None:
    job, first, last = tmp_path / "job", tmp_path / "first", tmp_path / "last"
    words = ["--plan", "rehearsal", "--device", "cpu", "--left", "600", "--archive", str(archive), "--job", str(job)]
    begun = command("begin", *words, "--pack", str(first), "--return-after", "2")
    assert begun.returncode == 0, begun.stderr
    assert json.loads((first / "report.json").read_text())["options"]["plan"] == "rehearsal"
    done = command("go-on", "--job", str(job), "--pack", str(last))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (last / "report.txt").read_text().strip()
    report = json.loads((last / "report.json").read_text())
    assert report["ended"] == 0
    assert {name: stage["status"] for name, stage in report["stages"].items()} == {
        "facts": "done", "data": "done", "mps": "failed", "paths": "done", "recipe": "done", "production": "done"
    }  # fmt: skip
    names = {"lsuv-relu-s0", "xavier-tanh-s0", "lsuv-tanh-s1"}
    assert {run["run_id"].rpartition("-")[0] for run in report["runs"]} == names
    assert all(run["iteration"] == 40 and run["status"] != "error" for run in report["runs"])
    lines = [line for path in job.glob("logs/*.txt") for line in path.read_text().splitlines()]
    for run in report["runs"]:
        assert sum(f"] {run['run_id']}: " in line for line in lines) == 1  # the matrix says so when it ends
    assert {path.name for path in last.iterdir()} == NAMES
    with tarfile.open(last / "records.tar.gz") as records:
        inside = records.getnames()
    assert sum(name.endswith("/result.json") for name in inside) == 3
    assert sum(name.endswith("/curve.csv") for name in inside) == 3


@dataclass
class Pretence:
    """A slot whose programs only pretend."""

    job: Path
    log: Path
    tools: Path

    def lines(self, begin: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(begin)]

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def make(self, archive: Path, *, left: float = 100, **options: Any) -> Slot:
        (self.job / "data").mkdir(parents=True)
        shutil.copytree(ROOT / "experiments", self.job / "tree" / "experiments")
        given = {"plan": "first", "device": "cuda", "step": "graph", "fingerprint": "", "scale": 0.1, "take": None}
        given |= {"deadline": time.time() + left, "archive": str(archive)} | options
        (self.job / "state.json").write_text(json.dumps({"options": given, "stages": {}}))
        return Slot(self.job)

    def report(self, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        gpu_slot_pack.pack(self.job, json.loads((self.job / "state.json").read_text()), folder)
        found: dict[str, Any] = json.loads((folder / "report.json").read_text())
        assert len(list(folder.iterdir())) <= 8
        return found


@pytest.fixture
def pretence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretence:
    made = Pretence(tmp_path / "job", tmp_path / "log", tmp_path / "tools")
    made.tools.mkdir()
    made.log.touch()
    made.tool("nvidia-smi", "echo NVIDIA H100, 580, 81559 MiB, 0 MiB")
    made.tool("nvidia-cuda-mps-control", '[ "$1" = -d ] && exit 0; read word; echo 1234')
    made.tool("python", f'exec {sys.executable} {ROOT / "tests" / "fake_python.py"} "$@"')
    monkeypatch.setenv("PATH", f"{made.tools}:{os.environ['PATH']}")
    monkeypatch.setenv("GPU_SLOT_PYTHON", str(made.tools / "python"))
    monkeypatch.setenv("FAKE_LOG", str(made.log))
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    # Runs of 100 iterations, as the pretended ones, and no wave
    short = {"iterations": 100}
    plan = PLANS["first"]
    small = tuple(replace(portion, cells=portion.cells[:5], **short) for portion in plan.portions)
    monkeypatch.setitem(PLANS, "first", replace(plan, portions=small, wave=replace(plan.wave, cells=(), **short)))
    return made


RUNS = 10  # of the plan above


def finished(report: dict[str, Any]) -> int:
    return sum(run.get("status") == "converged" for run in report["runs"])


def test_a_slot_in_which_all_goes_well(pretence: Pretence, archive: Path, tmp_path: Path) -> None:
    slot = pretence.make(archive, fingerprint="bad7")
    assert gpu_slot_stages.drive(slot) == 0
    report = pretence.report(tmp_path / "pack")
    assert {stage["status"] for stage in report["stages"].values()} == {"done"}
    assert report["recipe"] == {"step": "graph", "mps": True, "at_once": 8}
    assert report["facts"]["gpu"].startswith("NVIDIA H100")
    assert finished(report) == RUNS
    assert len(pretence.lines("run table3-short")) == RUNS
    matrices = pretence.lines("matrix ")
    assert len(matrices) == 3  # the images, and two portions
    for line in matrices[1:]:
        assert "--per-device 8 --step auto --retries 2" in line
        assert f"dataset=folder:{slot.data} seed=0" in line
        assert line.endswith("mps=True")
    assert sorted(line.split()[2] for line in pretence.lines("bench ")[:4]) == ["compiled", "eager", "graph", "graph"]
    assert {path.name for path in (tmp_path / "pack").iterdir()} == NAMES
    assert "# baseline,graph" in (tmp_path / "pack" / "bench.md").read_text()  # what was left was no time for a wave


@pytest.mark.parametrize("fault", ["exit 1", "sleep 60", '[ "$1" = -d ] && exit 0; exit 1', '[ "$1" = -d ]'])
def test_mps_that_does_not_work_is_done_without(fault: str, pretence: Pretence, archive: Path, tmp_path: Path) -> None:
    pretence.tool("nvidia-cuda-mps-control", fault)
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["stages"]["mps"]["status"] == "failed"
    assert report["recipe"] == {"step": "graph", "mps": False, "at_once": 4}
    assert finished(report) == RUNS
    assert all(line.endswith("mps=False") for line in pretence.lines("matrix "))


def test_mps_whose_client_hangs_is_done_without(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "client=hang")
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["stages"]["mps"]["why"] == "a client: no answer"
    assert report["recipe"]["at_once"] == 4


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_a_path_that_fails_is_out(
    fault: str, pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", f"bench-graph={fault}")
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["recipe"] == {"step": "eager", "mps": True, "at_once": 15}
    why = "no end in time" if fault == "hang" else "replicate: bench-graph fails: its losses differ"
    assert report["probes"]["graph-relu-1"] == {"path": "graph", "failed": why}
    page = (tmp_path / "pack" / "report.txt").read_text()
    assert f"probe graph-relu-1: {why}\n" in page
    assert "probe eager-relu-1: 300 per s\n" in page
    assert finished(report) == RUNS


def test_if_all_paths_fail_the_eager_one_is_tried(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "bench-graph=fail,bench-eager=fail,bench-compiled=hang")
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["recipe"]["step"] == "eager"
    assert finished(report) == RUNS


@pytest.mark.parametrize("fault", ["fail", "hang"])
def test_a_matrix_whose_runs_fail_or_stand_still_goes_on_a_rung_lower(
    fault: str, pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", f"matrix-graph={fault}")
    monkeypatch.setattr(gpu_slot_production, "STALL", 20)  # tenths of a second
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["recipe"] == {"step": "eager", "mps": True, "at_once": 15}
    why = {"fail": "RuntimeError: so it fails", "hang": "no iteration was made for minutes"}[fault]
    assert report["notes"] == [f"short: {why}; from now on eager with MPS"]
    assert finished(report) == RUNS


def test_a_matrix_that_always_fails_ends_and_says_why(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "matrix-graph=fail,matrix-eager=fail")
    assert gpu_slot_stages.drive(pretence.make(archive, left=8)) == 0
    report = pretence.report(tmp_path / "pack")
    assert [note.partition("from now on ")[2] for note in report["notes"]] == ["eager with MPS", "eager without MPS"]
    assert finished(report) == 0
    assert "exit code 1, 0 finished, 5 failed (RuntimeError: so it fails)" in report["portions"][0]["ended"]
    assert {run["error"][0] for run in report["runs"]} == {"RuntimeError: so it fails"}


def test_an_error_of_our_own_does_not_end_production(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [ZeroDivisionError("by nothing")]
    hear = gpu_slot_production.Production._hear

    def breaks(production: gpu_slot_production.Production, matrix: gpu_slot_production.Matrix) -> None:
        if errors:
            raise errors.pop()
        hear(production, matrix)

    monkeypatch.setattr(gpu_slot_production.Production, "_hear", breaks)
    assert gpu_slot_stages.drive(pretence.make(archive, left=8)) == 0
    report = pretence.report(tmp_path / "pack")
    assert report["notes"] == ["production was interrupted by ZeroDivisionError: by nothing"]
    assert finished(report) == RUNS


@pytest.mark.parametrize("place", ["data", "client", "bench-eager", "matrix-graph"])
def test_the_time_is_up_in_the_midst_of_a_stage(
    place: str, pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", f"{place}=hang")
    monkeypatch.setattr(gpu_slot_stages, "STAGES", tuple(
        replace(stage, seconds=1000) for stage in gpu_slot_stages.STAGES))  # fmt: skip
    slot = pretence.make(archive, left=5.5)  # 2.5 of them for the end
    gpu_slot_stages.drive(slot)
    assert slot.left == 0
    report = pretence.report(tmp_path / "pack")
    assert "ended" in report
    assert report["stages"].keys() == {stage.name for stage in gpu_slot_stages.STAGES}
    assert not [pid for pid, start in report["processes"].items() if is_running(pid, start)]


@pytest.mark.parametrize("done", range(7))
def test_a_driver_that_was_killed_between_two_stages_is_followed_by_one_that_skips_what_is_done(
    done: int, pretence: Pretence, archive: Path, tmp_path: Path
) -> None:
    slot = pretence.make(archive, left=8)
    for stage in gpu_slot_stages.STAGES[:done]:
        assert not gpu_slot_stages._carry_out(slot, stage)
    for stage in gpu_slot_stages.STAGES[done : done + 1]:
        slot.stage(stage.name, status="running")
    before = pretence.log.read_text()
    assert gpu_slot_stages.drive(Slot(pretence.job)) == 0
    report = pretence.report(tmp_path / "pack")
    assert {stage["status"] for stage in report["stages"].values()} == {"done"}
    assert finished(report) == len(pretence.lines("run table3-short")) == RUNS
    assert len([line for line in pretence.lines("bench ") if "baseline" not in line]) == 4
    assert len(pretence.lines("run try")) == 1
    if done == len(gpu_slot_stages.STAGES):
        assert pretence.log.read_text() == before


def test_a_driver_killed_in_production_is_replaced(pretence: Pretence, archive: Path, tmp_path: Path) -> None:
    words = ["--plan", "first", "--left", "100", "--scale", "0.1", "--archive", str(archive)]
    words += ["--job", str(pretence.job)]
    slow = {"FAKE_SECONDS": "0.3"}
    process = subprocess.Popen([sys.executable, str(SCRIPT), "begin", *words, "--pack", str(tmp_path / "a")],
                               env={**os.environ, **slow}, stdout=subprocess.DEVNULL)  # fmt: skip
    while len(pretence.lines("run table3-short")) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    driver = int((pretence.job / "driver.lock").read_text())
    assert gpu_slot.alive(pretence.job)
    os.kill(driver, signal.SIGKILL)
    while gpu_slot.alive(pretence.job):
        time.sleep(0.02)
    left_over = [int(pid) for pid in json.loads((pretence.job / "state.json").read_text())["processes"]]
    done = command("go-on", "--job", str(pretence.job), "--pack", str(tmp_path / "b"), "--return-after", "4", **slow)
    assert done.returncode == 0, done.stderr
    assert not any(start_time(pid) for pid in left_over)
    stopped = command("stop", "--job", str(pretence.job), "--pack", str(tmp_path / "c"))
    assert stopped.returncode == 0, stopped.stderr
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["ended"] == 0
    again = [line for line in set(pretence.lines("run table3")) if pretence.lines("run table3").count(line) > 1]
    assert len(again) <= 1  # the one that was running
    assert finished(report) >= 3


@pytest.mark.parametrize(
    ("tool", "options", "why"),
    [
        ("nvidia-smi", {}, "no GPU: no such device"),
        ("tar", {}, "there are no images to train on"),
        ("", {"fingerprint": "0000"}, "there are no images to train on"),
    ],
)
def test_without_a_gpu_or_images_nothing_is_carried_out(
    tool: str, options: dict[str, str], why: str, pretence: Pretence, archive: Path, tmp_path: Path
) -> None:
    if tool:
        pretence.tool(tool, "echo no such device; exit 9")
    assert gpu_slot_stages.drive(pretence.make(archive, **options)) == 2
    report = pretence.report(tmp_path / "pack")
    assert why in [stage.get("why") for stage in report["stages"].values()]
    assert report["ended"] == 2
    assert not pretence.lines("run table3")


def test_images_that_are_not_decoded_in_time_are_left_to_the_runs(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULTS", "data=hang")
    stages = tuple(replace(one, seconds=min(one.seconds, 20)) for one in gpu_slot_stages.STAGES[:-1])
    monkeypatch.setattr(gpu_slot_stages, "STAGES", (*stages, gpu_slot_stages.STAGES[-1]))
    assert gpu_slot_stages.drive(pretence.make(archive)) == 0
    assert finished(pretence.report(tmp_path / "pack")) == RUNS


@pytest.mark.parametrize(("asked", "passed"), [(None, 0), (-90, 90), (-120, 120), (-121, 120), (30, 120), (-5000, 120)])
def test_a_clock_that_is_off_costs_a_slow_start(asked: float | None, passed: float) -> None:
    now = 1_800_000_000.0
    assert gpu_slot.deadline(None if asked is None else now + asked, 800, now) == now + 800 - passed


def test_what_an_earlier_slot_has_done_is_not_done_again(pretence: Pretence, archive: Path, tmp_path: Path) -> None:
    before = tmp_path / "before" / "runs" / "lsuv-relu-s0-00000000"
    before.mkdir(parents=True)
    record = {"status": "converged", "test_accuracy": 91.0, "seconds": 1.0, "error": None}
    (before / "result.json").write_text(json.dumps(record | {"options": {"experiment": "table3-short"}}))
    assert gpu_slot_stages.drive(pretence.make(archive, take=str(before.parents[1]), left=8)) == 0
    report = pretence.report(tmp_path / "pack")
    assert finished(report) == RUNS
    assert len(pretence.lines("run table3-short")) == RUNS - 1
    with tarfile.open(tmp_path / "pack" / "records.tar.gz") as records:
        assert not [name for name in records.getnames() if before.name in name]


def test_the_time_left_is_for_a_wave_of_as_many_full_runs_as_it_suffices_for(
    pretence: Pretence, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = replace(PLANS["full"].wave, iterations=9_000)
    monkeypatch.setitem(PLANS, "full", replace(PLANS["full"], wave=wave))
    # By the probe 900 iterations a second: 10 s each. 36.5 s are left, and 5 s of them are kept.
    slot = pretence.make(archive, plan="full", left=40)
    slot.state["stages"] = {"mps": {"status": "done"}, "data": {"status": "done"}}
    gpu_slot_stages.paths(slot, 60)
    gpu_slot_stages.recipe(slot, 1)
    assert [line.split("--at-once ")[1][0] for line in pretence.lines("bench")] == ["8"]
    slot.options["deadline"] = time.time() + 36.5
    production = gpu_slot_production.Production(slot)
    portion = production._wave()
    assert portion is not None
    assert portion.cells == wave.cells[:3]


def test_a_wave_that_would_be_late_goes_on_with_the_runs_that_are_ahead(
    pretence: Pretence, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = pretence.make(archive, left=100 + 2.5)
    production = gpu_slot_production.Production(slot)
    portion = replace(PLANS["full"].wave, name="wave-1", cells=PLANS["full"].wave.cells[:3], iterations=1000)
    started: list[Any] = []
    monkeypatch.setattr(production, "_start", started.append)
    monkeypatch.setattr(production, "_stop", lambda matrix: None)
    for cell, done in zip(portion.cells, (500, 600, 550), strict=True):
        folder = slot.job / "out" / "table3" / "runs" / f"{cell[0]}-{cell[1]}-s0-00000000"
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_text(f"iteration,epoch\n{done},1\n")
    matrix = gpu_slot_production.Matrix(portion, None, 0.0, True)  # type: ignore[arg-type]
    production._shrink(matrix, 14.0)  # 1,350 iterations are missing, and there is time for 1,400
    assert not started
    production._shrink(matrix, 10.0)  # for 1,000, less what the new start costs
    assert [one.cells for one in started] == [(portion.cells[1], portion.cells[2])]


def test_large_archives_are_split_and_what_has_no_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_slot_pack, "MOST_BYTES", 1000)
    for number in range(10):
        folder = tmp_path / "job" / "out" / "table3" / "runs" / f"lsuv-relu-s{number}-00000000"
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_bytes(np.random.default_rng(number).bytes(400))
    (tmp_path / "pack").mkdir()
    state = {"options": {"plan": "first", "deadline": 0.0}, "stages": {}}
    text = gpu_slot_pack.pack(tmp_path / "job", state, tmp_path / "pack")
    names = sorted(path.name for path in (tmp_path / "pack").glob("records*"))
    assert names == ["records-2.tar.gz", "records-3.tar.gz", "records.tar.gz"]
    found = []
    for name in names:
        with tarfile.open(tmp_path / "pack" / name) as part:
            found += part.getnames()
    assert len(found) == 6
    left_out = [f"lsuv-relu-s{number}-00000000" for number in range(6, 10)]
    assert json.loads((tmp_path / "pack" / "report.json").read_text())["left_out"] == left_out
    assert f"no room for: {', '.join(left_out)}" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["begin", "--plan", "first", "--left", "9", "--archive", "nowhere.tar"], "there is no archive nowhere.tar"),
        (["go-on"], "there is no slot in {job}; start one with begin"),
        (["stop"], "there is no slot in {job}"),
    ],
)
def test_wrong_usage_is_named(words: list[str], message: str, tmp_path: Path) -> None:
    done = command(*words, "--job", str(tmp_path / "job"), "--pack", str(tmp_path / "pack"))
    assert done.returncode == 2
    assert done.stderr == f"gpu_slot: {message.format(job=tmp_path / 'job')}\n"
    assert not list(tmp_path.iterdir())


def test_a_slot_is_begun_once(pretence: Pretence, archive: Path, tmp_path: Path) -> None:
    pretence.make(archive)
    words = ["--plan", "first", "--left", "9", "--archive", str(archive), "--job", str(pretence.job)]
    done = command("begin", *words, "--pack", str(tmp_path / "pack"))
    assert done.returncode == 2
    assert "holds a slot already; wait for it with go-on, or give another --job" in done.stderr

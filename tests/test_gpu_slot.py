"""experiments/gpu_slot.py: a rehearsal on the CPU, and faults with programs that only pretend to work."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gpu_slot
import gpu_slot_pack
import gpu_slot_production
import gpu_slot_stages
import pytest
from bench import cli as bench_cli
from command_lines import parse
from gpu_slot_plans import PLANS
from gpu_slot_runs import RunCounts
from gpu_slot_state import Slot, is_running, start_time
from made_images import image_folder

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "gpu_slot.py"
NAMES = {"report.json", "report.txt", "records.tar.gz", "logs.tar.gz", "profile.txt", "bench.md"}
RUNS = 10  # of the plan `first` with fake programs


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set in an archive."""
    folder = tmp_path_factory.mktemp("images")
    with tarfile.open(folder / "cifar10-random.tar.xz", "w:xz") as file:
        file.add(image_folder(folder / "images", train=160, test=40), "")
    return folder / "cifar10-random.tar.xz"


def command(*words: str | Path, code: int = 0, **variables: str) -> str:
    """Carry out a command that ends with this exit code, and return what it writes to standard error."""
    program, environment = [sys.executable, SCRIPT], {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([*program, *words], check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stderr


def read_report(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


class FakeSlot:
    """A slot in which fake programs replace ours and NVIDIA's. All its times are a tenth."""

    def __init__(self, folder: Path, archive: Path, patch: pytest.MonkeyPatch) -> None:
        self.job, self.log, self.tools, self.packed = (folder / name for name in ("job", "log", "tools", "pack"))
        self.archive, self.patch = archive, patch
        self.tools.mkdir()
        self.log.touch()
        self.tool("nvidia-smi", "echo NVIDIA H100, 580, 81559 MiB, 0 MiB")
        self.tool("nvidia-cuda-mps-control", '[ "$1" = -d ] && exit 0; read word; echo 1234')
        self.tool("python", f'exec {sys.executable} {ROOT / "tests" / "fake_python.py"} "$@"')
        patch.setenv("PATH", f"{self.tools}:{os.environ['PATH']}")
        patch.setenv("GPU_SLOT_PYTHON", str(self.tools / "python"))
        patch.setenv("FAKE_LOG", str(self.log))
        patch.setattr("os.cpu_count", lambda: 16)
        # Runs of 100 iterations, as the fake ones have, and no wave
        plan = PLANS["first"]
        small = tuple(replace(portion, cells=portion.cells[:5], iterations=100) for portion in plan.portions)
        wave = replace(plan.wave, cells=(), iterations=100)
        patch.setitem(PLANS, "first", replace(plan, portions=small, wave=wave))

    def tool(self, name: str, script: str) -> None:
        path = self.tools / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def make(self, *, left: float = 100, **options: Any) -> Slot:
        (self.job / "data").mkdir(parents=True)
        shutil.copytree(ROOT / "experiments", self.job / "tree" / "experiments")
        given = {"plan": "first", "device": "cuda", "step": "graph", "fingerprint": "", "scale": 0.1, "take": None}
        given |= {"deadline": time.time() + left, "archive": str(self.archive)} | options
        (self.job / "state.json").write_text(json.dumps({"options": given, "stages": {}}))
        return Slot(self.job)

    def drive(
        self, slot: Slot | None = None, *, faults: str = "", code: int | None = 0, **options: Any
    ) -> dict[str, Any]:
        """Carry out a slot with faults, check its exit code, and return its report. A code of None may be any."""
        self.patch.setenv("FAKE_FAULTS", faults)
        assert gpu_slot_stages.drive(slot or self.make(**options)) in ((0, 2) if code is None else (code,))
        self.packed.mkdir()
        gpu_slot_pack.pack(self.job, json.loads((self.job / "state.json").read_text()), self.packed)
        return read_report(self.packed)

    def lines(self, start: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]


@pytest.fixture
def fake(tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlot:
    return FakeSlot(tmp_path, archive, monkeypatch)


def finished(report: dict[str, Any]) -> int:
    return sum(run.get("status") == "converged" for run in report["runs"])


def test_a_rehearsal_from_begin_to_go_on(fake: FakeSlot, tmp_path: Path) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    words = ["--plan", "rehearsal", "--device", "cpu", "--left", "600", "--archive", fake.archive, "--job", fake.job]
    # the portion `tiny` and the stage `data` call the same program as the wave, so they need not be real
    real = {"FAKE_NOT": "experiments/bench,slot-wave-1.yaml"}
    command("begin", *words, "--pack", first, "--return-after", "1", **real)
    command("go-on", "--job", fake.job, "--pack", last)
    report = read_report(last)
    assert report["ended"] == 0
    assert [name for name, stage in report["stages"].items() if stage["status"] != "done"] == ["mps"]
    assert {run["run_id"].rpartition("-")[0]: run["iteration"] for run in report["runs"]} == {
        "lsuv-relu-s0": 100, "xavier-tanh-s0": 100, "lsuv-tanh-s1": 40
    }  # fmt: skip
    assert all(run["status"] != "error" for run in report["runs"])
    lines = [line for path in fake.job.glob("logs/*.txt") for line in path.read_text().splitlines()]
    assert sum("] lsuv-tanh-s1-" in line for line in lines) == 1  # it was carried out once
    assert {path.name for path in last.iterdir()} == NAMES
    probe = report["probes"]["eager-relu-1"]
    assert probe["iterations_per_second"] > 0
    assert "| relu | 1 | eager |" in (last / "bench.md").read_text()
    assert (last / "profile.txt").read_text().startswith("relu, 1 at once, eager: 4 iterations\n")
    with tarfile.open(last / "records.tar.gz") as records:
        inside = records.getnames()
    assert [sum(name.endswith(file) for name in inside) for file in ("/result.json", "/curve.csv")] == [3, 3]


def test_a_slot_without_faults_carries_out_all_but_the_runs_of_an_earlier_one(fake: FakeSlot, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier" / "runs" / "lsuv-relu-s0-00000000"
    earlier.mkdir(parents=True)
    record = {"status": "converged", "test_accuracy": 91.0, "seconds": 1.0, "error": None}
    (earlier / "result.json").write_text(json.dumps(record | {"options": {"experiment": "table3-short"}}))
    report = fake.drive(fingerprint="bad7", take=str(earlier.parents[1]))
    assert {stage["status"] for stage in report["stages"].values()} == {"done"}
    assert report["recipe"] == {"step": "graph", "mps": True, "at_once": 8}
    assert finished(report) == len(fake.lines("run table3-short")) + 1 == RUNS
    with tarfile.open(fake.packed / "records.tar.gz") as records:
        assert not [name for name in records.getnames() if earlier.name in name]
    matrices, benches = fake.lines("matrix "), fake.lines("bench ")
    assert len(matrices) == 3  # the images, and two portions
    for line in matrices[1:]:
        assert "--per-device 8 --step auto --retries 2" in line
        assert "dataset=folder:cifar10-random seed=0" in line
        assert line.endswith("mps=True")
    assert sorted(line.split()[2] for line in benches[:4]) == ["compiled", "eager", "graph", "graph"]
    assert {path.name for path in fake.packed.iterdir()} == NAMES
    assert "# baseline,graph" in (fake.packed / "bench.md").read_text()  # there was no time for a wave
    # the real programs accept these command lines
    for line in matrices:
        parse(line.split()[:-1])
    for line in benches:
        bench_cli.app.parse_args(line.split()[1:-1], exit_on_error=False, print_error=False)


GRAPH, EAGER = "graph, 8 at once, with MPS", "eager, 15 at once, with MPS"
SLICED = "graph, 4 at once, without MPS"
ALWAYS = "matrix-graph=fail,matrix-eager=fail"


@pytest.mark.parametrize(
    ("faults", "recipe", "why"),
    [
        ("data=hang", GRAPH, "not decoded in time; the runs will do it"),
        ("mps=exit 1", SLICED, "the daemon: no output"),
        ("mps=exit 0", SLICED, "the list of servers: no output"),
        ("client=hang", SLICED, "a client: no answer"),
        ("bench-graph=hang", EAGER, "probe graph-relu-1: not in time\n"),
        # if all fail, the eager backend is tried
        ("bench-graph=fail,bench-eager=fail,bench-compiled=hang", EAGER, "probe eager-relu-1: replicate: bench-eager"),
        ("matrix-graph=fail", EAGER, "note: short: RuntimeError: a fault; from now on eager with MPS"),
        ("matrix-graph=hang", EAGER, "note: short: no progress for minutes; from now on eager with MPS"),
        (ALWAYS, "eager, 4 at once, without MPS", "exit code 1, 0 finished, 5 failed (RuntimeError: a fault)"),
    ],
)
def test_what_fails_or_hangs_is_replaced(
    faults: str, recipe: str, why: str, fake: FakeSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_slot_production, "STALL_SECONDS", 20)  # tenths of a second, as all these
    stages = [replace(stage, seconds=min(stage.seconds, 40)) for stage in gpu_slot_stages.STAGES]
    monkeypatch.setattr(gpu_slot_stages, "STAGES", stages)
    if faults.startswith("mps="):
        fake.tool("nvidia-cuda-mps-control", faults.removeprefix("mps="))
    report = fake.drive(faults=faults)
    text = (fake.packed / "report.txt").read_text()
    assert why in text
    assert f"recipe: {recipe}\n" in text
    assert finished(report) == (0 if faults == ALWAYS else RUNS)
    last = fake.lines("matrix ")[-1]
    assert last.endswith(f"mps={'with MPS' in recipe}")
    assert f"--step {'eager' if 'eager' in recipe else 'auto'} " in last


def test_a_bug_does_not_end_production(fake: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [ZeroDivisionError("a bug")]
    check = gpu_slot_production.Production._check

    def fail_once(*arguments: Any) -> None:
        if errors:
            raise errors.pop()
        check(*arguments)

    monkeypatch.setattr(gpu_slot_production.Production, "_check", fail_once)
    report = fake.drive(left=8)
    assert report["notes"] == ["production was interrupted by ZeroDivisionError: a bug"]
    assert finished(report) == RUNS


@pytest.mark.parametrize("place", ["data", "bench-eager", "matrix-graph"])
def test_the_time_is_up_in_the_middle_of_a_stage(place: str, fake: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_slot_stages, "STAGES", [replace(stage, seconds=1000.0) for stage in gpu_slot_stages.STAGES])
    slot = fake.make(left=5)  # 2.5 of them for the end
    report = fake.drive(slot, faults=f"{place}=hang", code=None)
    assert slot.left == 0
    assert report["stages"].keys() == {stage.name for stage in gpu_slot_stages.STAGES}
    assert not [pid for pid, start in report["processes"].items() if is_running(pid, start)]


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.02)


def test_a_driver_killed_in_production_is_replaced_by_one_that_skips_what_is_done(
    fake: FakeSlot, tmp_path: Path
) -> None:
    words = ["--plan", "first", "--left", "100", "--scale", "0.1", "--archive", fake.archive, "--job", fake.job]
    slow = {"FAKE_SECONDS": "0.3"}
    process = subprocess.Popen([sys.executable, SCRIPT, "begin", *words, "--pack", tmp_path / "a"],
                               env={**os.environ, **slow}, stdout=subprocess.DEVNULL)  # fmt: skip
    wait_until(lambda: len(fake.lines("run table3-short")) >= 3)
    process.kill()
    process.wait()
    assert "holds a slot already" in command("begin", *words, "--pack", tmp_path / "a", code=2)
    os.kill(int((fake.job / "driver.lock").read_text()), signal.SIGKILL)
    wait_until(lambda: not gpu_slot.alive(fake.job))
    orphans = [int(pid) for pid in json.loads((fake.job / "state.json").read_text())["processes"]]
    command("go-on", "--job", fake.job, "--pack", tmp_path / "b", "--return-after", "2", **slow)
    assert not any(start_time(pid) for pid in orphans)
    command("stop", "--job", fake.job, "--pack", tmp_path / "c")
    report = read_report(tmp_path / "c")
    assert {stage["status"] for stage in report["stages"].values()} == {"done"}
    assert len(fake.lines("run try")) == 1
    assert len([line for line in fake.lines("bench ") if "baseline" not in line]) == 4
    started = fake.lines("run table3")
    assert len({line for line in started if started.count(line) > 1}) <= 1  # the one that was running
    assert finished(report) >= 3


@pytest.mark.parametrize(
    ("tool", "fingerprint", "why"),
    [
        ("nvidia-smi", "", "no GPU: no such device"),
        ("tar", "", "there are no images to train on"),
        ("", "0000", "there are no images to train on"),
    ],
)
def test_without_a_gpu_or_images_nothing_is_carried_out(tool: str, fingerprint: str, why: str, fake: FakeSlot) -> None:
    if tool:
        fake.tool(tool, "echo no such device; exit 9")
    report = fake.drive(fingerprint=fingerprint, code=2)
    assert why in [stage.get("why") for stage in report["stages"].values()]
    assert report["ended"] == 2
    assert not fake.lines("run table3")


@pytest.mark.parametrize(("asked", "passed"), [(None, 0), (-90, 90), (-120, 120), (-121, 120), (30, 120), (-5000, 120)])
def test_if_the_clocks_differ_a_slow_start_is_assumed(asked: float | None, passed: float) -> None:
    now = 1_800_000_000.0
    assert gpu_slot.deadline(None if asked is None else now + asked, 800, now) == now + 800 - passed


def test_a_wave_has_as_many_full_runs_as_can_finish(fake: FakeSlot) -> None:
    slot = fake.make(plan="full", left=380)
    slot.state["stages"] = {"mps": {"status": "done"}}
    gpu_slot_stages.paths(slot, 60)
    gpu_slot_stages.recipe(slot, 1)
    assert [line.split("--at-once ")[1][0] for line in fake.lines("bench")] == ["8"]
    # At 900 iterations per second a run takes 100 s. Of 380 s, 5 are kept for the start-up and the end.
    assert gpu_slot_production.Production(slot)._wave().cells == PLANS["full"].wave.cells[:3]  # type: ignore[union-attr]


def test_a_late_wave_continues_with_the_runs_that_are_ahead(fake: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = (("lsuv", "relu"), ("xavier", "relu"), ("lsuv", "tanh"))
    counts = RunCounts(remaining=list(zip((500, 400, 450), cells, strict=True)))
    monkeypatch.setattr(gpu_slot_production, "count_runs", lambda *_: counts)
    production, started = gpu_slot_production.Production(fake.make(left=100 + 2.5)), []
    monkeypatch.setattr(production, "_start", started.append)
    monkeypatch.setattr(production, "_stop", lambda matrix: None)
    portion = replace(PLANS["full"].wave, name="wave-1", cells=cells)
    matrix = gpu_slot_production.Matrix(portion, None, 0.0, True)  # type: ignore[arg-type]
    production._shrink(matrix, 14.0)  # 1,350 iterations are missing, and there is time for 1,400
    assert not started
    production._shrink(matrix, 10.0)  # for 1,000, less those of a new start
    assert [one.cells for one in started] == [cells[1:]]


def test_large_archives_are_split_and_runs_without_room_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_slot_pack, "MAX_BYTES", 1000)
    job, packed = tmp_path / "job", tmp_path / "pack"
    packed.mkdir()
    for number in range(10):
        folder = job / "out" / "table3" / "runs" / f"lsuv-relu-s{number}-00000000"
        folder.mkdir(parents=True)
        (folder / "curve.csv").write_bytes(os.urandom(400))
    gpu_slot_pack.pack(job, {"options": {"plan": "first", "deadline": 0.0}, "stages": {}}, packed)
    for name in ("records.tar.gz", "records-2.tar.gz", "records-3.tar.gz"):
        with tarfile.open(packed / name) as part:
            assert len(part.getnames()) == 2
    left_out = [f"lsuv-relu-s{number}-00000000" for number in range(6, 10)]
    assert f"no room for: {', '.join(left_out)}\n" in (packed / "report.txt").read_text()


def test_wrong_usage_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--job", str(tmp_path / "job"), "--pack", str(tmp_path / "pack")]
    assert gpu_slot.main(["begin", "--plan", "first", "--left", "9", "--archive", "nowhere.tar", *folders]) == 2
    assert gpu_slot.main(["go-on", *folders]) == 2
    sentences = ["there is no archive nowhere.tar", f"there is no slot in {tmp_path / 'job'}; start one with begin"]
    assert capsys.readouterr().err.splitlines() == [f"gpu_slot: {sentence}" for sentence in sentences]
    assert not list(tmp_path.iterdir())

"""Production in a GPU slot: portion by portion, then waves of full runs. See gpu_slot.py."""

import json
import math
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_slot_pack import iteration
from gpu_slot_plans import CELLS, COST, Portion
from gpu_slot_state import GRACE_SECONDS, Slot, last_line

AT_ONCE = {"compiled": 8, "graph": 8, "eager": 15}  # runs under MPS: graphs need few to fill a GPU
AT_ONCE_SLICED = 4  # without MPS kernels do not overlap; more runs only hide more start-ups
AT_ONCE_CPU = 2
UNKNOWN = 4  # runs of a wave if nothing tells how fast they go
MOST_WAVES = 5
WINDOW = 60.0  # seconds that the rate is taken over
READING = 15.0
STALL = 120.0  # seconds without an iteration after which a recipe is given up: a compiled start takes one minute
START_UP = 25.0  # seconds until a matrix makes its first iterations
RUN_FILES = ("result.json", "curve.csv", "layers.json", "predictions.npz")


def ladder(slot: Slot) -> list[str]:
    """The step that was asked for, and those to fall back on."""
    steps = ["compiled", "graph", "eager"]
    return ["eager"] if slot.options["device"] == "cpu" else steps[steps.index(slot.options["step"]) :]


def at_once(slot: Slot, step: str, mps: bool) -> int:
    """How many runs share the device."""
    if slot.options["device"] == "cpu":
        return AT_ONCE_CPU
    return min(AT_ONCE[step] if mps else AT_ONCE_SLICED, os.cpu_count() or 1)


@dataclass
class Matrix:
    """A `replicate matrix` that is running; `moved`: when its iterations last increased."""

    portion: Portion
    process: "subprocess.Popen[bytes]"
    began: float
    wave: bool
    units: int = 0
    moved: float = 0.0


@dataclass
class Look:
    """The runs of a portion, as counted in the output folder: finished and failed since a time, running, waiting."""

    finished: int
    failed: int
    running: int
    waiting: int
    units: int
    remaining: list[tuple[int, tuple[str, str]]]  # units and cell of each run that is not finished
    error: str = ""


class Production:
    """Keeps the device busy until the time is up.

    The next portion starts when the one before has no run waiting and at most half as many running as fit: so the
    device is never half empty. A portion of which all runs fail, or which stands still, is started again a rung lower:
    graph instead of compiled, eager instead of graph, at last without MPS.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.queue = list(slot.plan.portions)
        self.matrices: list[Matrix] = []
        self.tries: dict[str, int] = {}
        self.waves = 0
        self.readings: list[tuple[float, int]] = []
        self.best_rate: float | None = None
        self.read_at = time.time()

    def carry_out(self) -> None:
        """Carry everything out."""
        slot = self.slot
        if slot.options["take"]:
            self._take(Path(slot.options["take"]))
        while slot.left > 0:
            for matrix in list(self.matrices):
                self._hear(matrix)
            if self._ready() and (portion := self.queue.pop(0) if self.queue else self._wave()):
                self._start(portion)
            elif not self.matrices:
                break
            now = time.time()
            if now - self.read_at >= slot.scaled(READING):
                self.read_at = now
                self._read(now)
            time.sleep(slot.scaled(1))
        if slot.options["device"] == "cuda" and slot.left > slot.scaled(45):
            self._bench()

    def _take(self, folder: Path) -> None:
        """Copy the records of an earlier slot: what they hold is done."""
        taken = []
        for path in folder.glob("runs/*/result.json"):
            experiment = json.loads(path.read_text())["options"]["experiment"]
            target = self.slot.job / "out" / experiment / "runs" / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            for name in RUN_FILES:
                if (path.parent / name).exists() and not (target / name).exists():
                    shutil.copy(path.parent / name, target / name)
            taken.append(path.parent.name)
        self.slot.update(taken=taken)

    def _ready(self) -> bool:
        if not self.matrices:
            return True
        if len(self.matrices) > 1:
            return False
        look = self._look(self.matrices[0].portion)
        return look.waiting == 0 and 2 * look.running <= self.slot.state["recipe"]["at_once"]

    def _wave(self) -> Portion | None:
        """As many of the wave's cells as can finish, or None."""
        if self.waves >= MOST_WAVES or any(matrix.wave for matrix in self.matrices):
            return None
        look, rate = self._look(self.slot.plan.wave), self._rate()
        diverged = {tuple(path.parent.name.split("-")[:2]) for path in self.slot.job.glob("out/*/runs/*/result.json")
                    if json.loads(path.read_text())["status"] == "diverged"}  # fmt: skip
        cells = sorted((cell for _, cell in look.remaining), key=lambda cell: cell in diverged)
        time_left = self.slot.left - self.slot.scaled(START_UP)
        fit = UNKNOWN if rate is None else math.floor(time_left * rate / self.slot.plan.wave.iterations)
        if fit < 1 or not cells or time_left <= 0:
            return None
        self.waves += 1
        return replace(self.slot.plan.wave, name=f"wave-{self.waves}", cells=tuple(cells[:fit]))

    def _start(self, portion: Portion) -> None:
        slot, recipe = self.slot, self.slot.state["recipe"]
        alone = slot.state.get("probes", {}).get("graph-relu-1", {}).get("iterations_per_second")
        if recipe["mps"] and self.best_rate and alone and self.best_rate < 0.7 * alone:
            self._change({"mps": False}, "all runs together were slower than one alone")
            recipe = slot.state["recipe"]
        wave = portion.name.startswith("wave-")
        file = slot.job / "tree" / "experiments" / f"slot-{portion.name}.yaml"
        file.write_text(self._only(portion))
        # By `auto` a run that cannot be captured goes on eagerly, and the others are captured all the same.
        step = "auto" if recipe["step"] == "graph" else recipe["step"]
        words = ["matrix", str(file), "--set", f"dataset=folder:{slot.data}",
                 f"seed={','.join(map(str, portion.seeds))}", *portion.settings,
                 "--data-dir", str(slot.job / "data"), "--out", str(slot.job / "out" / portion.file),
                 "--per-device", str(len(portion.cells) if wave else recipe["at_once"]), "--step", step,
                 "--retries", "2", "--checkpoint-seconds", "30", "--time-limit", f"{max(1, slot.left):.0f}s",
                 "--wandb", "off", *(["--devices", "cpu"] if slot.options["device"] == "cpu" else [])]  # fmt: skip
        process = slot.start(portion.name, [slot.python, "-m", "replicate", *words])
        now = time.time()
        self.matrices.append(Matrix(portion, process, now, wave, moved=now))
        self.tries[portion.name] = self.tries.get(portion.name, 0) + 1

    def _only(self, portion: Portion) -> str:
        """The experiment file with all cells left out but those of the portion."""
        text = (self.slot.job / "tree" / "experiments" / f"{portion.file}.yaml").read_text()
        others = [f"  - {{init: {init}, activation: {act}}}" for init, act in CELLS if (init, act) not in portion.cells]
        return re.sub(r"(?m)^exclude:.*$", lambda found: "\n".join([found[0], *others]), text)

    def _hear(self, matrix: Matrix) -> None:
        """See what has become of a matrix, and start it again with another recipe if nothing comes of it."""
        code, look = matrix.process.poll(), self._look(matrix.portion, matrix.began)
        if look.units != matrix.units:
            matrix.units, matrix.moved = look.units, time.time()
        failed = look.failed >= min(3, len(matrix.portion.runs)) or code in (1, 2)
        fails = failed and not look.finished
        stands = code is None and time.time() - matrix.moved > self.slot.scaled(STALL)
        why = self._said(matrix, look) if fails else "no iteration was made for minutes" if stands else ""
        if why and (lower := self._lower()):
            self._change(lower, f"{matrix.portion.name}: {why}")
            self._stop(matrix)
            self.queue.insert(0, matrix.portion)
        elif code is not None:
            self._ended(matrix, code, look)

    def _ended(self, matrix: Matrix, code: int, look: Look) -> None:
        self.matrices.remove(matrix)
        if matrix.wave and not look.finished:
            self.waves = MOST_WAVES  # another one would fare no better
        said = f" ({self._said(matrix, look)})" if code not in (0, 3) else ""
        ended = f"exit code {code}, {look.finished} finished, {look.failed} failed{said}"
        known = self.slot.state.get("portions", [])
        self.slot.update(portions=[*known, {"name": matrix.portion.name, "code": code, "ended": ended}])
        if code < 0 and self.tries[matrix.portion.name] < 2:  # it was killed
            self.queue.insert(0, matrix.portion)

    def _said(self, matrix: Matrix, look: Look) -> str:
        """Why runs failed, or else the last that the matrix said."""
        log = self.slot.job / "logs" / f"{matrix.portion.name}.txt"
        return look.error or last_line(log.read_text(errors="replace"))

    def _lower(self) -> dict[str, Any]:
        """What to change in the recipe to go a rung lower; empty if there is none."""
        recipe, steps = self.slot.state["recipe"], ladder(self.slot)
        lower = steps[steps.index(recipe["step"]) + 1 :]
        return {"step": lower[0]} if lower else {"mps": False} if recipe["mps"] else {}

    def _change(self, changes: dict[str, Any], why: str) -> None:
        slot, recipe = self.slot, {**self.slot.state["recipe"], **changes}
        recipe["at_once"] = at_once(slot, recipe["step"], recipe["mps"])
        slot.update(recipe=recipe)
        self.readings, self.best_rate = [], None  # of another recipe
        slot.note(f"{why}; from now on {recipe['step']} {'with' if recipe['mps'] else 'without'} MPS")

    def _stop(self, matrix: Matrix) -> None:
        """Let a matrix save its checkpoints and end."""
        self.slot.terminate([matrix.process.pid], self.slot.scaled(GRACE_SECONDS))
        matrix.process.wait()
        self.matrices.remove(matrix)

    def _read(self, now: float) -> None:
        """Measure the rate; a wave that would not finish in time continues with fewer runs."""
        folders = self.slot.job.glob("out/*/runs/*")
        units = sum(COST.get(folder.name.split("-")[1], 1) * iteration(folder) for folder in folders)
        self.readings.append((now, units))
        window = self.slot.scaled(WINDOW)
        past = [one for one in self.readings if one[0] <= now - window]
        if past:
            rate = (self.readings[-1][1] - past[-1][1]) / (now - past[-1][0])
            self.best_rate = max(rate, self.best_rate or 0.0)
            rates = [*self.slot.state.get("rates", []), [round(now - self.readings[0][0]), round(rate, 2)]]
            self.slot.update(rate=self.best_rate, rates=rates)
            for matrix in [one for one in self.matrices if one.wave and now - one.began > window]:
                self._shrink(matrix, rate)

    def _shrink(self, matrix: Matrix, rate: float) -> None:
        remaining = sorted(self._look(matrix.portion).remaining)
        if sum(units for units, _ in remaining) <= rate * self.slot.left or len(remaining) < 2:
            return
        room, kept = rate * (self.slot.left - self.slot.scaled(START_UP)), []
        for units, cell in remaining:
            room -= units
            if room >= 0:
                kept.append(cell)
        if not kept:
            return
        self.slot.note(f"{matrix.portion.name}: {len(remaining)} runs would not finish, {len(kept)} go on")
        self._stop(matrix)
        self._start(replace(matrix.portion, name=f"{matrix.portion.name}-{len(kept)}", cells=tuple(kept)))

    def _rate(self) -> float | None:
        """Iterations a second of all runs together: as seen, or else as probed."""
        if self.best_rate:
            return self.best_rate
        step = self.slot.state["recipe"]["step"]
        rates = [one["iterations_per_second"] for one in self.slot.state.get("probes", {}).values()
                 if one["path"] == step and one.get("activation") == "relu" and "failed" not in one]  # fmt: skip
        return max(rates, default=None)

    def _look(self, portion: Portion, since: float = 0.0) -> Look:
        """Look at the runs of a portion; `since`: count what ended after this time."""
        found = Look(0, 0, 0, 0, 0, [])
        out = self.slot.job / "out" / portion.file / "runs"
        for init, activation, seed in portion.runs:
            folders = sorted(out.glob(f"{init}-{activation}-s{seed}-*"), key=lambda path: path.stat().st_mtime)
            if not folders:
                found.waiting += 1
                found.remaining.append((COST.get(activation, 1) * portion.iterations, (init, activation)))
                continue
            folder, done = folders[-1], iteration(folders[-1])
            found.units += COST.get(activation, 1) * done
            running = (folder / "claim").exists()
            found.running += running
            record = folder / "result.json"
            content = json.loads(record.read_text()) if record.exists() else {"status": "error", "error": None}
            new = record.exists() and record.stat().st_mtime >= since
            if content["status"] != "error":
                found.finished += new
                continue
            found.remaining.append((COST.get(activation, 1) * (portion.iterations - done), (init, activation)))
            if new:
                found.failed += 1
                found.error = last_line(content["error"] or "")
            elif not running:
                found.waiting += 1
        return found

    def _bench(self) -> None:
        """Use what is left, too little for a run, for a look at the speed next to the plain loop."""
        paths = f"baseline,{self.slot.state['recipe']['step']}"
        out = self.slot.job / "bench" / "last"
        words = ["--paths", paths, "--activations", "relu", "--at-once", "1", "--windows", "2", "--out", str(out)]
        self.slot.bench("bench", words, float("inf"))

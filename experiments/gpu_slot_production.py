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

from gpu_slot_pack import RECORD
from gpu_slot_plans import CELLS, COST, Portion
from gpu_slot_runs import RunCounts, count_runs, iteration, last_line
from gpu_slot_state import GRACE_SECONDS, Slot

AT_ONCE = {"compiled": 8, "graph": 8, "eager": 15}  # runs with MPS: with graphs, few runs fill a GPU
AT_ONCE_SLICED = 4  # without MPS kernels do not overlap; more runs only hide more start-ups
AT_ONCE_CPU = 2
WAVE_RUNS = 4  # of a wave if the rate is unknown
MAX_WAVES = 5
RATE_SECONDS = 60.0  # over which the rate is measured
RATE_INTERVAL = 15.0  # seconds between two measurements
STALL_SECONDS = 120.0  # without an iteration, after which a recipe is given up: a compiled start takes one minute
STARTUP_SECONDS = 25.0  # until a matrix makes its first iterations


def usable_steps(slot: Slot) -> list[str]:
    """The training-step backend that was asked for, and those to fall back on."""
    steps = ["compiled", "graph", "eager"]
    return ["eager"] if slot.options["device"] == "cpu" else steps[steps.index(slot.options["step"]) :]


def at_once(slot: Slot, step: str, mps: bool) -> int:
    """How many runs share the device."""
    if slot.options["device"] == "cpu":
        return AT_ONCE_CPU
    return min(AT_ONCE[step] if mps else AT_ONCE_SLICED, os.cpu_count() or 1)


@dataclass
class Matrix:
    """A `replicate matrix` that is running.

    Args:
        portion: what it carries out.
        process: the running process.
        began: when it started.
        wave: whether the portion is a wave.
        units: iterations of its runs, by COST.
        moved: when these last increased.
    """

    portion: Portion
    process: "subprocess.Popen[bytes]"
    began: float
    wave: bool
    units: int = 0
    moved: float = 0.0


class Production:
    """Keeps the device busy until the time is up.

    The next portion starts when the previous one has no run waiting and at most half as many runs in progress as fit,
    so the device is never half empty. If all runs of a portion fail, or none makes progress, the portion starts again
    with a simpler recipe: graph instead of compiled, eager instead of graph, and at last without MPS.
    """

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.queue = list(slot.plan.portions)
        self.matrices: list[Matrix] = []
        self.tries: dict[str, int] = {}
        self.waves = 0
        self.readings: list[tuple[float, int]] = []
        self.best_rate: float | None = None
        self.measured_at = time.time()

    def carry_out(self) -> None:
        """Carry out the portions, then waves."""
        slot = self.slot
        if slot.options["take"]:
            self._take(Path(slot.options["take"]))
        while slot.left > 0:
            for matrix in list(self.matrices):
                self._check(matrix)
            if self._ready() and (portion := self.queue.pop(0) if self.queue else self._wave()):
                self._start(portion)
            elif not self.matrices:
                break
            now = time.time()
            if now - self.measured_at >= slot.scaled(RATE_INTERVAL):
                self.measured_at = now
                self._measure_rate(now)
            time.sleep(slot.scaled(1))
        if slot.options["device"] == "cuda" and slot.left > slot.scaled(45):
            self._bench()

    def _take(self, folder: Path) -> None:
        """Copy the records of an earlier slot, whose runs count as done."""
        taken = []
        for path in folder.glob("runs/*/result.json"):
            experiment = json.loads(path.read_text())["options"]["experiment"]
            target = self.slot.job / "out" / experiment / "runs" / path.parent.name
            target.mkdir(parents=True, exist_ok=True)
            for name in RECORD:
                if (path.parent / name).exists() and not (target / name).exists():
                    shutil.copy(path.parent / name, target / name)
            taken.append(path.parent.name)
        self.slot.update(taken=taken)

    def _ready(self) -> bool:
        if len(self.matrices) != 1:
            return not self.matrices
        counts = count_runs(self.slot.job, self.matrices[0].portion)
        return counts.waiting == 0 and 2 * counts.running <= self.slot.state["recipe"]["at_once"]

    def _wave(self) -> Portion | None:
        """As many of the wave's cells as can finish; None: no further wave."""
        if self.waves >= MAX_WAVES or any(matrix.wave for matrix in self.matrices):
            return None
        counts, rate = count_runs(self.slot.job, self.slot.plan.wave), self._rate()
        diverged = {tuple(path.parent.name.split("-")[:2]) for path in self.slot.job.glob("out/*/runs/*/result.json")
                    if json.loads(path.read_text())["status"] == "diverged"}  # fmt: skip
        cells = sorted((cell for _, cell in counts.remaining), key=lambda cell: cell in diverged)
        time_left = self.slot.left - self.slot.scaled(STARTUP_SECONDS)
        fit = WAVE_RUNS if rate is None else math.floor(time_left * rate / self.slot.plan.wave.iterations)
        if fit < 1 or not cells or time_left <= 0:
            return None
        self.waves += 1
        return replace(self.slot.plan.wave, name=f"wave-{self.waves}", cells=tuple(cells[:fit]))

    def _start(self, portion: Portion) -> None:
        slot, recipe = self.slot, self.slot.state["recipe"]
        single = slot.state.get("probes", {}).get("graph-relu-1", {}).get("iterations_per_second")
        if recipe["mps"] and self.best_rate and single and self.best_rate < 0.7 * single:
            self._change_recipe({"mps": False}, "all runs together were slower than a single one")
            recipe = slot.state["recipe"]
        wave = portion.name.startswith("wave-")
        file = slot.job / "tree" / "experiments" / f"slot-{portion.name}.yaml"
        file.write_text(self._experiment_file(portion))
        # With `auto`, a run that cannot be captured continues eagerly, and the others are still captured.
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

    def _experiment_file(self, portion: Portion) -> str:
        """The experiment file, with all cells excluded but those of the portion."""
        text = (self.slot.job / "tree" / "experiments" / f"{portion.file}.yaml").read_text()
        others = [f"  - {{init: {init}, activation: {act}}}" for init, act in CELLS if (init, act) not in portion.cells]
        return re.sub(r"(?m)^exclude:.*$", lambda found: "\n".join([found[0], *others]), text)

    def _check(self, matrix: Matrix) -> None:
        """Check on a matrix. If it has ended, note how; if it fails, start it again with a simpler recipe."""
        code, counts = matrix.process.poll(), count_runs(self.slot.job, matrix.portion, matrix.began)
        if counts.units != matrix.units:
            matrix.units, matrix.moved = counts.units, time.time()
        failed = counts.failed >= min(3, len(matrix.portion.runs)) or code in (1, 2)
        fails = failed and not counts.finished
        stalled = code is None and time.time() - matrix.moved > self.slot.scaled(STALL_SECONDS)
        why = self._reason(matrix, counts) if fails else "no progress for minutes" if stalled else ""
        if why and (simpler := self._simpler_recipe()):
            self._change_recipe(simpler, f"{matrix.portion.name}: {why}")
            self._stop(matrix)
            self.queue.insert(0, matrix.portion)
        elif code is not None:
            self._note_end(matrix, code, counts)

    def _note_end(self, matrix: Matrix, code: int, counts: RunCounts) -> None:
        self.matrices.remove(matrix)
        if matrix.wave and not counts.finished:
            self.waves = MAX_WAVES  # another one would not finish either
        reason = f" ({self._reason(matrix, counts)})" if code not in (0, 3) else ""
        ended = f"exit code {code}, {counts.finished} finished, {counts.failed} failed{reason}"
        known = self.slot.state.get("portions", [])
        self.slot.update(portions=[*known, {"name": matrix.portion.name, "code": code, "ended": ended}])
        if code < 0 and self.tries[matrix.portion.name] < 2:  # it was killed
            self.queue.insert(0, matrix.portion)

    def _reason(self, matrix: Matrix, counts: RunCounts) -> str:
        """Why runs failed, or else the last line of the matrix's output."""
        log = self.slot.job / "logs" / f"{matrix.portion.name}.txt"
        return counts.error or last_line(log.read_text(errors="replace"))

    def _simpler_recipe(self) -> dict[str, Any]:
        """What to change in the recipe to make it simpler; empty if it is the simplest."""
        recipe, steps = self.slot.state["recipe"], usable_steps(self.slot)
        simpler = steps[steps.index(recipe["step"]) + 1 :]
        return {"step": simpler[0]} if simpler else {"mps": False} if recipe["mps"] else {}

    def _change_recipe(self, changes: dict[str, Any], why: str) -> None:
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

    def _measure_rate(self, now: float) -> None:
        """Measure the rate. A wave that would not finish in time continues with fewer runs."""
        folders = self.slot.job.glob("out/*/runs/*")
        units = sum(COST.get(folder.name.split("-")[1], 1) * iteration(folder) for folder in folders)
        self.readings.append((now, units))
        window = self.slot.scaled(RATE_SECONDS)
        past = [one for one in self.readings if one[0] <= now - window]
        if past:
            rate = (self.readings[-1][1] - past[-1][1]) / (now - past[-1][0])
            self.best_rate = max(rate, self.best_rate or 0.0)
            rates = [*self.slot.state.get("rates", []), [round(now - self.readings[0][0]), round(rate, 2)]]
            self.slot.update(rate=self.best_rate, rates=rates)
            for matrix in [one for one in self.matrices if one.wave and now - one.began > window]:
                self._shrink(matrix, rate)

    def _shrink(self, matrix: Matrix, rate: float) -> None:
        remaining = sorted(count_runs(self.slot.job, matrix.portion).remaining)
        if sum(units for units, _ in remaining) <= rate * self.slot.left or len(remaining) < 2:
            return
        room, kept = rate * (self.slot.left - self.slot.scaled(STARTUP_SECONDS)), []
        for units, cell in remaining:
            room -= units
            if room >= 0:
                kept.append(cell)
        if not kept:
            return
        self.slot.note(f"{matrix.portion.name}: {len(remaining)} runs would not finish in time, {len(kept)} continue")
        self._stop(matrix)
        self._start(replace(matrix.portion, name=f"{matrix.portion.name}-{len(kept)}", cells=tuple(kept)))

    def _rate(self) -> float | None:
        """Iterations per second of all runs together: as measured, or else as probed; None: unknown."""
        if self.best_rate:
            return self.best_rate
        step = self.slot.state["recipe"]["step"]
        rates = [one["iterations_per_second"] for one in self.slot.state.get("probes", {}).values()
                 if one["path"] == step and one.get("activation") == "relu" and "failed" not in one]  # fmt: skip
        return max(rates, default=None)

    def _bench(self) -> None:
        """Use the remaining time, too short for a run, to compare the speed with the plain loop's."""
        paths = f"baseline,{self.slot.state['recipe']['step']}"
        out = self.slot.job / "bench" / "last"
        words = ["--paths", paths, "--activations", "relu", "--at-once", "1", "--windows", "2", "--out", str(out)]
        self.slot.bench("bench", words, float("inf"))

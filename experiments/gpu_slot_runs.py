"""How far the runs of a GPU slot are, by their folders. See gpu_slot.py."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_slot_plans import COST, Portion


@dataclass
class RunCounts:
    """The runs of a portion.

    Args:
        finished: runs that finished after the given time.
        failed: runs that failed after the given time.
        running: runs in progress.
        waiting: runs that have not started.
        units: iterations of all runs, by COST.
        remaining: units and cell of each run that has not finished.
        error: last line of the error of a run that failed.
    """

    finished: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0
    units: int = 0
    remaining: list[tuple[int, tuple[str, str]]] = field(default_factory=list)
    error: str = ""


def count_runs(job: Path, portion: Portion, since: float = 0.0) -> RunCounts:
    """Count the runs of a portion.

    Args:
        job: folder of the slot.
        portion: the runs.
        since: count as finished or failed only what ended after this time.
    """
    found = RunCounts()
    out = job / "out" / portion.file / "runs"
    for init, activation, seed in portion.runs:
        cost = COST.get(activation, 1)
        folders = sorted(out.glob(f"{init}-{activation}-s{seed}-*"), key=lambda path: path.stat().st_mtime)
        if not folders:
            found.waiting += 1
            found.remaining.append((cost * portion.iterations, (init, activation)))
            continue
        folder, done = folders[-1], iteration(folders[-1])
        found.units += cost * done
        running = (folder / "claim").exists()
        found.running += running
        record = folder / "result.json"
        content = json.loads(record.read_text()) if record.exists() else {"status": "error", "error": None}
        new = record.exists() and record.stat().st_mtime >= since
        if content["status"] != "error":
            found.finished += new
            continue
        found.remaining.append((cost * (portion.iterations - done), (init, activation)))
        if new:
            found.failed += 1
            found.error = last_line(content["error"] or "")
        elif not running:
            found.waiting += 1
    return found


def describe_runs(job: Path) -> Iterator[dict[str, Any]]:
    """Yield what the record of each run says, or else how far the run is."""
    for folder in sorted(job.glob("out/*/runs/*")):
        known = {"experiment": folder.parts[-3], "run_id": folder.name, "iteration": iteration(folder)}
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((folder / "result.json").read_text())
            known |= {name: record[name] for name in ("status", "test_accuracy", "seconds")}
            known["error"] = (record["error"] or "").strip().splitlines()[-1:]
        yield known


def iteration(folder: Path) -> int:
    """How far a run is, by its heartbeat or the last row of its curve."""
    done = 0
    for path in (*folder.glob("claim/*/owner.json"), folder / "curve.csv"):
        with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
            content = path.read_text()
            row = content if path.suffix == ".csv" else f"\n{json.loads(content)['iteration']},"
            done = max(done, int(row.splitlines()[-1].split(",")[0]))
    return done


def last_line(output: str) -> str:
    """The last line of a program's output, which usually is the reason for its failure."""
    return (output.splitlines() or ["no output"])[-1][:300]

"""What a GPU slot brings back: at most 8 files below 16 MiB. See gpu_slot.py."""

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

from gpu_slot_runs import describe_runs

MAX_BYTES = 15 * 2**20  # of a file
PARTS = 3  # of the archive of records: with the other five files there are at most 8
RECORD = ("result.json", "curve.csv", "layers.json", "predictions.npz")
LOG_LINES = 200


def write(path: Path, content: str | bytes) -> None:
    """Write a file as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def pack(job: Path, state: dict[str, Any], folder: Path) -> str:
    """Write all files. Those of an earlier call are replaced.

    Args:
        job: folder of the slot.
        state: content of its state.json.
        folder: where the files go.

    Returns:
        The report as text.
    """
    archives, left_out = _records(job, state.get("taken", []))
    for number, content in enumerate(archives, 1):
        write(folder / ("records.tar.gz" if number == 1 else f"records-{number}.tar.gz"), content)
    logs = [*job.glob("logs/*.txt"), *job.glob("out/*/runs/*/log.txt")]
    write(folder / "logs.tar.gz", _archive({str(path.relative_to(job)): _tail(path) for path in sorted(logs)}))
    for name, pattern in {"profile.txt": "profiles/*.txt", "bench.md": "bench/*/*.md"}.items():
        pages = [page.read_text(errors="replace") for page in sorted(job.glob(pattern))]
        if pages:
            write(folder / name, "\n".join(pages).encode()[:MAX_BYTES])
    whole = {**state, "runs": list(describe_runs(job)), "left_out": left_out, "packed": round(time.time())}
    write(folder / "report.json", json.dumps(whole, indent=1) + "\n")
    write(folder / "report.txt", page := text(whole))
    return page


def _records(job: Path, taken: list[str]) -> tuple[list[bytes], list[str]]:
    """Archive the files of all runs, and name the runs for which there was no room."""
    parts: list[dict[str, bytes]] = [{}]
    left_out = []
    for folder in sorted(job.glob("out/*/runs/*")):
        if folder.name in taken:
            continue
        files = {
            str(path.relative_to(job / "out")): path.read_bytes()
            for name in RECORD
            if (path := folder / name).is_file()
        }
        room = MAX_BYTES - sum(map(len, parts[-1].values())) - sum(map(len, files.values()))
        if room < 0 and len(parts) == PARTS:
            left_out.append(folder.name)
            continue
        if room < 0 and parts[-1]:
            parts.append({})
        parts[-1].update(files)
    return [_archive(part) for part in parts], left_out


def _archive(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 100_000))
        return b"\n".join(file.read().splitlines()[-LOG_LINES:])


def text(report: dict[str, Any]) -> str:
    """Format the report as one screen of text."""
    options, recipe = report["options"], report.get("recipe") or {}
    lines = [f"plan {options['plan']}, {options['deadline'] - report['packed']:.0f} s before the deadline"]
    for name, stage in report["stages"].items():
        seconds = f" in {stage['seconds']:.0f} s" if "seconds" in stage else ""
        lines.append(f"{name}: {stage['status']}{seconds}{': ' + stage['why'] if stage.get('why') else ''}")
    for name, probe in report.get("probes", {}).items():
        lines.append(f"probe {name}: {probe.get('failed') or format(probe['iterations_per_second'], '.4g') + ' per s'}")
    if recipe:
        mps = "with MPS" if recipe["mps"] else "without MPS"
        lines.append(f"recipe: {recipe['step']}, {recipe['at_once']} at once, {mps}")
    lines += [f"note: {note}" for note in report.get("notes", [])]
    if rate := report.get("rate"):
        lines.append(f"rate: {rate:.4g} iterations/s in all ({1000 / rate:.3g} ms each; one of maxout counts as 2)")
    lines += [f"portion {one['name']}: {one['ended']}" for one in report.get("portions", [])]
    for run in report["runs"]:
        accuracy = f" {run['test_accuracy']:.2f} %" if run.get("test_accuracy") is not None else ""
        error = f" {run['error'][0][:100]}" if run.get("error") else ""
        status = run.get("status", f"at iteration {run['iteration']}")
        lines.append(f"{run['experiment']}/{run['run_id']}: {status}{accuracy}{error}")
    if report["left_out"]:
        lines.append(f"no room for: {', '.join(report['left_out'])}")
    return "\n".join(lines) + "\n"

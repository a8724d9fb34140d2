"""The stages of a GPU slot, each with its time limit. See gpu_slot.py."""

import json
import os
import platform
import shutil
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_slot_plans import Probe
from gpu_slot_production import Production, at_once, usable_steps
from gpu_slot_runs import last_line
from gpu_slot_state import Slot

TRIES = 3  # of production
CLIENT = "import torch; print(float(torch.ones(8, device='cuda').sum()))"


class StageError(Exception):
    """Why a stage failed, in one sentence. The slot continues without it."""


class HopelessError(StageError):
    """A failure after which no run can be carried out."""


@dataclass(frozen=True)
class Stage:
    """What a stage does, and its time limit. The next stages do not wait for a stage in the background."""

    name: str
    do: Callable[[Slot, float], Any]
    seconds: float
    background: bool = False


def facts(slot: Slot, limit: float) -> None:
    """Record the GPU, the cores and the versions."""
    code, gpu = slot.call("nvidia-smi", ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used",
                                         "--format=csv,noheader"], limit)  # fmt: skip
    found = {
        "gpu": gpu if code == 0 else None,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "gcc": shutil.which("gcc") is not None,
        "python.h": (Path(sysconfig.get_path("include")) / "Python.h").exists(),
        "mps": shutil.which("nvidia-cuda-mps-control", path=slot.environment()["PATH"]),
        "commit": os.environ.get("REPLICATE_COMMIT"),
    }
    for name in ("torch", "pytorch-lightning", "numpy", "triton", "pydantic"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    slot.update(facts=found)
    if slot.options["device"] == "cuda" and code != 0:
        raise HopelessError(f"no GPU: {last_line(gpu)}")


def data(slot: Slot, limit: float) -> str:
    """Unpack the images. A run of two iterations on the CPU decodes them, and proves that they can be trained on."""
    folder = slot.job / "data" / slot.data
    if not folder.exists():
        part = folder.with_name(f"{slot.data}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        code, output = slot.call("tar", ["tar", "-xf", slot.options["archive"], "-C", str(part)], limit)
        if code != 0:
            raise StageError(f"the images were not unpacked: {'not in time' if code is None else last_line(output)}")
        part.rename(folder)
    words = ["matrix", "experiments/smoke.yaml", "--devices", "cpu", "--wandb", "off", "--only", "init=lsuv",
             "activation=relu", "--data-dir", str(folder.parent), "--out", str(slot.job / "try"),
             "--set", f"dataset=folder:{slot.data}", "iterations=2", "milestones=[]"]  # fmt: skip
    code, output = slot.replicate("data", words, limit)
    if code is None:
        return "not decoded in time; the runs will do it"
    if code != 0:
        raise StageError(last_line(output))
    (record,) = slot.job.glob("try/runs/*/result.json")
    fingerprint: str = json.loads(record.read_text())["fingerprint"]
    if not fingerprint.startswith(slot.options["fingerprint"]):
        raise StageError(f"the images have fingerprint {fingerprint}, not {slot.options['fingerprint']}")
    return fingerprint


def mps(slot: Slot, limit: float) -> str:
    """Start NVIDIA's Multi-Process Service, which lets kernels of several runs overlap, and try it with a client."""
    if slot.options["device"] != "cuda":
        raise StageError("not on a CPU")
    environment = slot.environment() | slot.mps_variables
    (slot.job / "mps").mkdir(exist_ok=True)
    ask = ["sh", "-c", "echo get_server_list | nvidia-cuda-mps-control"]
    for what, words, seconds in (
        ("the daemon", ["sh", "-c", "exec nvidia-cuda-mps-control -d"], limit / 5),
        ("a client", [slot.python, "-c", CLIENT], limit * 4 / 5),
        ("the list of servers", ask, limit / 5),
    ):
        code, output = slot.call("mps", words, seconds, environment)
        if code != 0 or (words is ask and not output):
            slot.call("mps", ["sh", "-c", "echo quit | nvidia-cuda-mps-control"], limit / 5, environment)
            raise StageError(f"{what}: {'no answer' if code is None else last_line(output)}")
    return "a client works"


def paths(slot: Slot, limit: float) -> None:
    """Measure the training-step backends, each in its own process, all at the same time. One that fails is not used."""
    found: dict[str, Any] = slot.state.get("probes", {})
    step = usable_steps(slot)[0]
    probes = slot.plan.probes or (Probe(step, "relu", at_once(slot, step, slot.mps_works)),)

    def measure(probe: Probe) -> None:
        name = f"{probe.path}-{probe.activation}-{probe.at_once}"
        out, profiles = slot.job / "bench" / name, slot.job / "profiles"
        for folder in (out, profiles):
            folder.mkdir(parents=True, exist_ok=True)
        words = ["--paths", probe.path, "--activations", probe.activation, "--at-once", str(probe.at_once)]
        words += ["--windows", "1", "--seconds", f"{slot.scaled(3):g}", "--out", str(out)]
        words += ["--profile", str(profiles / f"{name}.txt")]
        words += ["--devices", "cpu", "--width", "0.125"] if slot.options["device"] == "cpu" else []
        code, output = slot.bench(f"probe-{name}", words, limit + (40 if probe.background else 0))
        pages = list(out.glob("*.json"))
        if code == 0 and pages:
            found[name] = json.loads(pages[0].read_text())["rows"][0]
        else:
            found[name] = {"path": probe.path, "failed": "not in time" if code is None else last_line(output)}
        slot.update(probes=found)

    for probe in probes:
        if probe.background:
            threading.Thread(target=measure, args=(probe,), daemon=True).start()
    with ThreadPoolExecutor(len(probes)) as pool:
        list(pool.map(measure, [probe for probe in probes if not probe.background]))


def recipe(slot: Slot, limit: float) -> None:
    """Choose the first backend that has not failed, and as many runs at once as suit it."""
    failed = {probe["path"] for probe in slot.state.get("probes", {}).values() if "failed" in probe}
    step = next((step for step in usable_steps(slot) if step not in failed), usable_steps(slot)[-1])
    slot.update(recipe={"step": step, "mps": slot.mps_works, "at_once": at_once(slot, step, slot.mps_works)})


def production(slot: Slot, limit: float) -> None:
    """Wait for the data, then carry out the portions and waves of the plan until the time is up."""
    while slot.state["stages"]["data"]["status"] == "running" and slot.left > 0:
        time.sleep(0.1)
    if slot.state["stages"]["data"]["status"] != "done":
        raise HopelessError("there are no images to train on")
    for _ in range(TRIES):
        try:
            return Production(slot).carry_out()
        except Exception as error:  # a bug of ours: try again, which skips the finished runs
            traceback.print_exc()
            slot.note(f"production was interrupted by {type(error).__name__}: {error}")
            slot.end_processes()


STAGES = (
    Stage("facts", facts, 10),
    Stage("data", data, 120, background=True),
    Stage("mps", mps, 40),
    Stage("paths", paths, 80),
    Stage("recipe", recipe, 1),
    Stage("production", production, float("inf")),
)


def drive(slot: Slot) -> int:
    """Carry out the stages that have not ended yet. Whatever happens, end the processes that were started.

    Returns:
        The exit code: 0, or 2 if no run could be carried out.
    """
    code = 0
    try:
        slot.end_processes()  # of a driver that was killed
        for stage in STAGES:
            if slot.state["stages"].get(stage.name, {}).get("status") in ("done", "failed"):
                continue
            slot.stage(stage.name, status="running")
            if stage.background:
                threading.Thread(target=_carry_out, args=(slot, stage), daemon=True).start()
                continue
            if code := _carry_out(slot, stage):
                break
    finally:
        slot.ending = True
        slot.end_processes()
        if slot.mps_works:
            quit_ = ["sh", "-c", "echo quit | nvidia-cuda-mps-control"]
            slot.call("mps", quit_, 5, slot.environment() | slot.mps_variables)
        slot.update(ended=code)
    return code


def _carry_out(slot: Slot, stage: Stage) -> int:
    begin, code, outcome = time.monotonic(), 0, {}
    try:
        if slot.left <= 0:
            raise StageError("no time was left")
        outcome = {"status": "done", "why": stage.do(slot, stage.seconds)}
    except Exception as error:
        if not isinstance(error, StageError):
            traceback.print_exc()
        why = str(error) if isinstance(error, StageError) else f"{type(error).__name__}: {error}"
        outcome, code = {"status": "failed", "why": why}, 2 * isinstance(error, HopelessError)
    slot.stage(stage.name, seconds=round(time.monotonic() - begin, 1), **outcome)
    return code

"""The stages of a GPU slot up to production, each with its time box and what is done if it fails. See gpu_slot.py."""

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
from gpu_slot_production import Production, at_once, ladder
from gpu_slot_state import Slot, last_line

TRIES = 3  # of production
CLIENT = "import torch; print(float(torch.ones(8, device='cuda').sum()))"


class StageError(Exception):
    """Why a stage failed, in a sentence. The slot goes on without what the stage was to bring."""


class HopelessError(StageError):
    """A failure after which no run can be carried out."""


@dataclass(frozen=True)
class Stage:
    """A stage: what it does within how many seconds; `beside`: the next ones do not wait for it."""

    name: str
    do: Callable[[Slot, float], Any]
    seconds: float
    beside: bool = False


def facts(slot: Slot, box: float) -> None:
    """Look at the machine."""
    code, gpu = slot.call("nvidia-smi", ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used",
                                         "--format=csv,noheader"], box)  # fmt: skip
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


def data(slot: Slot, box: float) -> str:
    """Unpack the images, and decode them by a run of two iterations on the CPU, which also proves that they train."""
    folder = slot.job / "data" / slot.data
    if not folder.exists():
        part = folder.with_name(f"{slot.data}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        code, output = slot.call("tar", ["tar", "-xf", slot.options["archive"], "-C", str(part)], box)
        if code != 0:
            raise StageError(f"the images were not unpacked: {'no end in time' if code is None else last_line(output)}")
        part.rename(folder)
    words = ["matrix", "experiments/smoke.yaml", "--devices", "cpu", "--wandb", "off", "--only", "init=lsuv",
             "activation=relu", "--data-dir", str(folder.parent), "--out", str(slot.job / "try"),
             "--set", f"dataset=folder:{slot.data}", "iterations=2", "milestones=[]"]  # fmt: skip
    code, output = slot.replicate("data", words, box)
    if code is None:
        return "not decoded in time, which is left to the runs"
    if code != 0:
        raise StageError(last_line(output))
    (record,) = slot.job.glob("try/runs/*/result.json")
    fingerprint: str = json.loads(record.read_text())["fingerprint"]
    if not fingerprint.startswith(slot.options["fingerprint"]):
        raise StageError(f"the images have fingerprint {fingerprint}, not {slot.options['fingerprint']}")
    return fingerprint


def mps(slot: Slot, box: float) -> str:
    """Start NVIDIA's Multi-Process Service, which lets kernels of several runs overlap, and see that a client works."""
    if slot.options["device"] != "cuda":
        raise StageError("not on a CPU")
    environment = slot.environment() | slot.mps_variables
    (slot.job / "mps").mkdir(exist_ok=True)
    ask = ["sh", "-c", "echo get_server_list | nvidia-cuda-mps-control"]
    for what, words, seconds in (
        ("the daemon", ["sh", "-c", "exec nvidia-cuda-mps-control -d"], box / 5),
        ("a client", [slot.python, "-c", CLIENT], box * 4 / 5),
        ("the list of servers", ask, box / 5),
    ):
        code, output = slot.call("mps", words, seconds, environment)
        if code != 0 or (words is ask and not output):
            slot.call("mps", ["sh", "-c", "echo quit | nvidia-cuda-mps-control"], box / 5, environment)
            raise StageError(f"{what}: {'no answer' if code is None else last_line(output)}")
    return "a client works"


def mps_works(slot: Slot) -> bool:
    """Whether the stage `mps` found that it does."""
    return slot.state["stages"].get("mps", {}).get("status") == "done"


def paths(slot: Slot, box: float) -> None:
    """Measure the paths, each in a process of its own and all at once; one that fails is out."""
    found: dict[str, Any] = slot.state.get("probes", {})
    step = ladder(slot)[0]
    probes = slot.plan.probes or (Probe(step, "relu", at_once(slot, step, mps_works(slot))),)

    def measure(probe: Probe) -> None:
        name = f"{probe.path}-{probe.activation}-{probe.at_once}"
        out, profiles = slot.job / "bench" / name, slot.job / "profiles"
        for folder in (out, profiles):
            folder.mkdir(parents=True, exist_ok=True)
        words = ["--paths", probe.path, "--activations", probe.activation, "--at-once", str(probe.at_once)]
        words += ["--windows", "1", "--seconds", f"{slot.scaled(3):g}", "--out", str(out)]
        words += ["--profile", str(profiles / f"{name}.txt")]
        words += ["--devices", "cpu", "--width", "0.125"] if slot.options["device"] == "cpu" else []
        code, output = slot.bench(f"probe-{name}", words, box + (40 if probe.background else 0))
        pages = list(out.glob("*.json"))
        if code == 0 and pages:
            found[name] = json.loads(pages[0].read_text())["rows"][0]
        else:
            found[name] = {"path": probe.path, "failed": "no end in time" if code is None else last_line(output)}
        slot.update(probes=found)

    for probe in probes:
        if probe.background:
            threading.Thread(target=measure, args=(probe,), daemon=True).start()
    with ThreadPoolExecutor(len(probes)) as pool:
        list(pool.map(measure, [probe for probe in probes if not probe.background]))


def recipe(slot: Slot, box: float) -> None:
    """Take the first path that has not failed, and as many runs at once as suit it."""
    failed = {probe["path"] for probe in slot.state.get("probes", {}).values() if "failed" in probe}
    step = next((step for step in ladder(slot) if step not in failed), ladder(slot)[-1])
    with_mps = mps_works(slot)
    slot.update(recipe={"step": step, "mps": with_mps, "at_once": at_once(slot, step, with_mps)})


def production(slot: Slot, box: float) -> None:
    """Wait for the data, then carry out the portions and waves of the plan until the time is up."""
    while slot.state["stages"]["data"]["status"] == "running" and slot.left > 0:
        time.sleep(0.1)
    if slot.state["stages"]["data"]["status"] != "done":
        raise HopelessError("there are no images to train on")
    for _ in range(TRIES):
        try:
            return Production(slot).carry_out()
        except Exception as error:  # ours, and no reason to leave the device idle: what is finished is not done again
            traceback.print_exc()
            slot.note(f"production was interrupted by {type(error).__name__}: {error}")
            slot.end_processes()


STAGES = (
    Stage("facts", facts, 10),
    Stage("data", data, 120, beside=True),
    Stage("mps", mps, 40),
    Stage("paths", paths, 80),
    Stage("recipe", recipe, 1),
    Stage("production", production, float("inf")),
)


def drive(slot: Slot) -> int:
    """Carry out the stages that are not over yet; whatever happens, end what was started.

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
            if stage.beside:
                threading.Thread(target=_carry_out, args=(slot, stage), daemon=True).start()
                continue
            if code := _carry_out(slot, stage):
                break
    finally:
        slot.ending = True
        slot.end_processes()
        if mps_works(slot):
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

"""The devices: what torch finds, and whether a tiny training works on each, in a process of its own."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicate.doctor.finding import Finding
from replicate.doctor.found import Found, cpu, gpus, nvidia_smi, sharing
from replicate.errors import CUDA, MEMORY, UsageError
from replicate.matrix.local import LocalLauncher, death, tail
from replicate.matrix.scheduler import WORKER
from replicate.matrix.slots import Slot, make_slots
from replicate.matrix.task import TRAIN, Done, Failed, GraphFailed, Task
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import new_token
from replicate.store.result import Result

PROBE = "replicate.training.probe:probe"
SECONDS = 180.0  # for all answers; a device that hangs would keep us for ever
PRECISION = {"cuda": "bf16-mixed", "mps": "32-true", "cpu": "32-true"}  # what the experiments ask for there
LOOK = "`replicate matrix experiments/smoke.yaml --only init=lsuv activation=maxout` shows the whole traceback"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a task: its value, or why there is none."""

    value: Any
    trouble: str = ""


def devices(launcher: LocalLauncher, train: str = TRAIN) -> Iterator[Finding]:
    """Look for devices and train on each.

    Args:
        launcher: starts the processes.
        train: `module:function` that trains a run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        launcher.start("probe", PROBE, (), os.environ, folder / "probe")
        answer = _answers(launcher, ["probe"], folder)["probe"]
        if answer.trouble:
            mend = "set up the environment anew: make setup"
            yield Finding("torch", f"torch cannot be used: {answer.trouble}", good=False, mend=mend)
            return
        found = Found.of(answer.value)
        yield from gpus(found, nvidia_smi(), os.environ)
        yield from sharing(found, os.environ)
        yield from cpu(found)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        slots = make_slots("auto", 1, 1, len(found.gpus), visible) if found.gpus else []
        slots += make_slots("mps", 1, 1, len(found.gpus), mps=True) if found.mps else []
        slots += make_slots("cpu", 1, 1, len(found.gpus))
        begin = time.monotonic()
        for slot in slots:
            options = Options(folder / slot.name, folder, slot.device, commit=("unknown", None))
            environment = {**os.environ, **slot.environment}
            task = Task(tiny(slot), options, slot.name, new_token(), train=train)
            launcher.start(slot.name, WORKER, (task,), environment, folder / f"{slot.name}.log")
        answers = _answers(launcher, [slot.name for slot in slots], folder)
        seconds = time.monotonic() - begin
        for slot in slots:
            yield judge(slot, answers[slot.name], seconds)


def tiny(slot: Slot) -> Run:
    """The smallest run that goes all the way, from LSUV to a test accuracy, in the precision of the experiments."""
    return Run(
        "lsuv", "maxout", dataset="synthetic", width=0.125, batch_size=32, lsuv_batch_size=32, iterations=2,
        milestones=(), precision=PRECISION[slot.device],
    )  # fmt: skip


def judge(slot: Slot, answer: Answer, seconds: float) -> Finding:
    """Say whether a tiny training has worked.

    Args:
        slot: where it was.
        answer: its record, if all went well.
        seconds: that all of them took beside each other.
    """
    result = answer.value
    trouble, kind = answer.trouble, None
    if isinstance(result, Result) and not result.final:
        trouble, kind = (result.error or "").strip().splitlines()[-1], result.passing
    if not trouble:
        text = f"{slot.name}: trains ({PRECISION[slot.device]}; tiny run with LSUV, at most {seconds:.0f} s)"
        return Finding("training", text, good=True)
    mends = {
        MEMORY: "free its memory (on a GPU, nvidia-smi shows who has it), or name other devices by --devices",
        CUDA: "see by nvidia-smi whether the GPU is well, and whether its driver fits the CUDA of this torch",
    }
    return Finding("training", f"{slot.name}: does not train: {trouble}", good=False, mend=mends.get(kind or "", LOOK))


def _answers(launcher: LocalLauncher, tasks: Sequence[str], folder: Path) -> dict[str, Answer]:
    """Wait for tasks; the launcher has none left afterwards."""
    answers: dict[str, Answer] = {}
    end = time.monotonic() + SECONDS
    while len(answers) < len(tasks) and (left := end - time.monotonic()) > 0:
        for event in launcher.events(timeout=left):
            if event.kind == "done" and isinstance(event.value, Failed):
                answers[event.task] = Answer(None, event.value.reason)
            elif event.kind == "done" and isinstance(event.value, GraphFailed):
                answers[event.task] = Answer(None, f"{event.value.reason}; without a CUDA graph (--step eager) it may")
            elif event.kind == "done":
                answers[event.task] = Answer(event.value.result if isinstance(event.value, Done) else event.value)
            elif event.kind == "failed":
                message = str(event.value) if isinstance(event.value, UsageError) else f"{event.value.args[0]}"
                answers[event.task] = Answer(None, message)
            elif event.kind == "died":
                said = tail(folder / f"{event.task}.log", 1)
                answers[event.task] = Answer(None, f"its process died: {death(event.value)} {said}".strip())
    launcher.stop(5.0)
    return {task: answers.get(task, Answer(None, f"no answer in {SECONDS:.0f} s")) for task in tasks}

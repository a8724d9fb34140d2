"""The resources of a command: the slots where its runs run, its time, and how often it retries a failed run."""

import glob
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from replicate.errors import MEMORY, UsageError
from replicate.matrix.limits import RUN_MEMORY, cores, free_memory

START_SECONDS = 10.0  # until a start has been measured: a guess for a small machine
END_SECONDS = 3.0  # to write a checkpoint and end a process


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one run at a time, on one device or several.

    Args:
        name: as users see it, such as `gpu 1`, `gpu 0+1` or `cpu`.
        device: `cuda` or `cpu`, as in Options.
        environment: variables that the run's process needs to see its own devices and no others.
    """

    name: str
    device: str
    environment: Mapping[str, str]


def make_slots(
    devices: str, per_device: int | None, threads: int, gpus: int, visible: str | None = None, per_run: int = 1
) -> list[Slot]:
    """Turn `--devices` and `--per-device` into slots.

    Args:
        devices: `auto` (all NVIDIA GPUs, or else the CPU), `cpu`, or GPU numbers such as `0,1`, as this process counts
            them.
        per_device: runs at a time on each device; None: 1 on a GPU; on the CPU, as many as have enough cores and
            memory.
        threads: CPU threads of each process of a run.
        gpus: GPUs that torch sees.
        visible: CUDA_VISIBLE_DEVICES of this process, which numbers its GPUs; None if it is not set.
        per_run: devices that a run takes at once; GPUs beyond a multiple of it stay idle. On the CPU, processes.

    Returns:
        The slots. The first ones are on different devices, so that few runs spread over many devices.

    Raises:
        UsageError: a GPU is absent, or there are too few for `per_run`.
    """
    if devices == "cpu" or (devices == "auto" and gpus == 0):
        # No GPU is visible to a run on the CPU.
        fitting = min(cores() // threads, free_memory() // RUN_MEMORY) // per_run
        count = per_device or max(1, fitting)
        return [Slot("cpu", "cpu", {"CUDA_VISIBLE_DEVICES": ""})] * count
    numbers = range(gpus) if devices == "auto" else [int(number) for number in devices.split(",")]
    if absent := [number for number in numbers if number >= gpus]:
        raise UsageError(f"there is no GPU {absent[0]}: this machine has {gpus} GPU{'s' * (gpus != 1)} and its CPU")
    if len(numbers) < per_run:
        raise UsageError(f"--devices-per-run {per_run} needs as many GPUs; --devices {devices} gives {len(numbers)}")
    # CUDA_VISIBLE_DEVICES of a child names physical GPUs (or their UUIDs), so our numbers go through our own variable.
    tokens = [token.strip() for token in visible.split(",")] if visible else [str(n) for n in range(gpus)]
    slots = []
    for start in range(0, len(numbers) - per_run + 1, per_run):
        group = numbers[start : start + per_run]
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(tokens[number] for number in group)}
        slots.append(Slot(f"gpu {'+'.join(map(str, group))}", "cuda", environment))
    return slots * (per_device or 1)


def may_have_gpu() -> bool:
    """Whether this machine has an NVIDIA driver. If so, only torch can count the GPUs; otherwise there are none.

    The names are those of Linux, of Jetson boards and of Windows' subsystem for Linux.
    """
    return any(map(glob.glob, ("/dev/nvidia*", "/proc/driver/nvidia", "/dev/nvhost*", "/dev/dxg")))


class Deadline:
    """Measures how long runs take to start and to stop, and tells when there is no time left for either.

    A run stops when it could next report its progress, after a chunk of iterations, and saves a checkpoint there. So a
    run can reach a checkpoint if there is time for its start-up (the initialisation, or reading the last checkpoint,
    and its first chunk). The longest start-up and the longest time between two reports so far count.

    Args:
        seconds: that the command has, from now on; infinity for no limit.
        clock: monotonic, in seconds.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._end = clock, clock() + seconds
        self._start_ups: list[float] = []
        self._gap = 0.0
        self._started: dict[str, float] = {}
        self._progressed: dict[str, float] = {}

    def remaining(self) -> float:
        """Return the seconds until the deadline."""
        return max(0.0, self._end - self._clock())

    def started(self, task: str) -> None:
        """Note that a run has started."""
        self._started[task] = self._clock()

    def progressed(self, task: str) -> None:
        """Note that a run has reported its progress."""
        now = self._clock()
        if task in self._started:
            self._start_ups.append(now - self._started.pop(task))
        else:
            self._gap = max(self._gap, now - self._progressed[task])
        self._progressed[task] = now

    def may_start(self) -> bool:
        """Whether a run that starts now could still save a checkpoint and end before the deadline."""
        return self.remaining() > max(self._start_ups, default=START_SECONDS) + self._gap + END_SECONDS

    def expired(self) -> bool:
        """Whether the running runs must stop now in order to end before the deadline."""
        return self.remaining() <= self._gap + END_SECONDS


class RetryPolicy:
    """Decides which failed runs are retried in the same call, and how many runs share a device.

    A run that fails with a transient error is retried at most `most` times. If several runs share a GPU and one of them
    runs out of memory, that run is retried as well and the retry is not counted: the cause is the sharing, and from
    then on one run less shares the GPU. This ends, because each such retry shares the GPU with fewer runs.

    `sharing` counts the runs that may share a device now, by the name of its slots.

    Args:
        most: retries per run.
        slots: all slots of the matrix.
    """

    def __init__(self, most: int, slots: Iterable[Slot]) -> None:
        self._most = most
        self._retries: Counter[str] = Counter()
        self.sharing = Counter(slot.name for slot in slots)

    def decide(self, run_id: str, kind: str | None, slot: Slot | None = None, shared: int = 1) -> str | None:
        """Decide whether a run is retried: return a message for the user if it is, otherwise None.

        Args:
            run_id: of the run that failed.
            kind: of the transient error, one of errors.KINDS; None: the error is not transient.
            slot: where it ran; None: in another command.
            shared: how many runs shared that device when it started.
        """
        if kind == MEMORY and slot is not None and slot.device == "cuda" and shared > 1:
            if shared == self.sharing[slot.name]:  # else another failure has made room since
                self.sharing[slot.name] -= 1
            at_once = f"from now on, at most {self.sharing[slot.name]} at a time run there"
            return f"{run_id} ran out of memory on {slot.name} and is retried; {at_once}"
        if kind is None or self._retries[run_id] >= self._most:
            return None
        self._retries[run_id] += 1
        return f"{run_id} failed with a transient error ({kind}); retry {self._retries[run_id]} of {self._most}"

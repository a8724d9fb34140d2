"""Where the numbers of a report come from: data, code, libraries and devices, and how long they took."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class Device:
    """One kind of device.

    Args:
        name: of the device.
        kind: `GPU` or `CPU`.
        runs: that it carried out.
        hours: on a GPU the sum of its runs' wall-clock hours (runs that shared it count each); on a CPU core-hours,
            wall-clock hours times threads.
    """

    name: str
    kind: str
    runs: int
    hours: float


@dataclass(frozen=True, slots=True)
class Origins:
    """What the records say about where they were made.

    Args:
        data: (label, fingerprint) -> number of runs.
        code: (commit, whether the code differed from it or None) -> number of runs.
        versions: library -> version -> number of runs.
        devices: by name.
        first: when the first run finished, UTC, ISO 8601; empty if none has.
        last: likewise the last.
    """

    data: Mapping[tuple[str, str], int]
    code: Mapping[tuple[str, bool | None], int]
    versions: Mapping[str, Mapping[str, int]]
    devices: tuple[Device, ...]
    first: str
    last: str

    def hours(self, kind: str) -> float:
        """Hours on the devices of a kind, `GPU` or `CPU`."""
        return sum(device.hours for device in self.devices if device.kind == kind)


def origins(results: Iterable[Result]) -> Origins:
    """Count where records were made; those that ended in an error took their time too."""
    found = list(results)
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    runs: Counter[tuple[str, str]] = Counter()
    hours: dict[tuple[str, str], float] = defaultdict(float)
    for result in found:
        for library, version in result.versions.items():
            versions[library][str(version)] += 1
        on_cpu = result.options.get("device", "cpu") == "cpu"
        threads = result.options.get("threads", 1)
        device = (result.device, "CPU" if on_cpu else "GPU")
        runs[device] += 1
        hours[device] += result.seconds / 3600 * (threads if on_cpu and isinstance(threads, int) else 1)
    finished = sorted(result.finished for result in found)
    return Origins(
        data=Counter((result.data_label, result.fingerprint) for result in found),
        code=Counter((result.commit, result.dirty) for result in found),
        versions=versions,
        devices=tuple(Device(name, kind, count, hours[name, kind]) for (name, kind), count in runs.items()),
        first=finished[0] if finished else "",
        last=finished[-1] if finished else "",
    )

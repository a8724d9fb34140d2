"""Where the numbers of a report come from: data, code, libraries and devices, and how long the runs took."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from replicate.store.result import Result


def provenance(results: Sequence[Result]) -> dict[str, Any]:
    """Count where records were made, those that ended in an error included.

    Returns:
        - `data`: a list of `{label, fingerprint, runs}`. `code`: a list of `{commit, dirty, runs}`.
        - `versions`: library -> version -> number of runs.
        - `devices`: a list of `{name, kind, runs, hours}`, kind `GPU` or `CPU`. Hours on a GPU are the wall-clock hours
          of its runs (runs that shared it count each), on a CPU core-hours: wall-clock hours times threads.
        - `hours`: kind -> hours on all of its devices.
        - `first_finished`, `last_finished`: UTC, ISO 8601; None without a record.
    """
    versions: dict[str, Counter[str]] = defaultdict(Counter)
    runs: Counter[tuple[str, str]] = Counter()
    hours: dict[tuple[str, str], float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for result in results:
        for library, version in result.versions.items():
            versions[library][str(version)] += 1
        kind = "CPU" if result.options.get("device", "cpu") == "cpu" else "GPU"
        threads = result.options.get("threads", 1)
        taken = result.seconds / 3600 * (threads if kind == "CPU" and isinstance(threads, int) else 1)
        runs[result.device, kind] += 1
        hours[result.device, kind] += taken
        total[kind] += taken
    data = Counter((result.data_label, result.fingerprint) for result in results)
    code = Counter((result.commit, result.dirty) for result in results)
    finished = sorted(result.finished for result in results)
    return {
        "data": [{"label": label, "fingerprint": mark, "runs": n} for (label, mark), n in data.items()],
        "code": [{"commit": commit, "dirty": dirty, "runs": n} for (commit, dirty), n in code.items()],
        "versions": versions,
        "devices": [
            {"name": name, "kind": kind, "runs": n, "hours": hours[name, kind]} for (name, kind), n in runs.items()
        ],
        "hours": total,
        "first_finished": finished[0] if finished else None,
        "last_finished": finished[-1] if finished else None,
    }

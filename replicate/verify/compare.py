"""Compare a record with that of a rerun: bit for bit, within a tolerance for a stated reason, or not."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from replicate.store.result import Result
from replicate.store.run_folder import CURVE

IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"
Z = 1.96  # of 95 %, two-sided
SAID_TWICE = ("cpu", "threads", "deterministic")  # in `environment`, as in the device and the options


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rerun compares with its record.

    Args:
        run_id: of the run.
        word: IDENTICAL, WITHIN or DIFFERENT.
        recorded: test accuracy of the record in %; None where there is none.
        rerun: likewise of the rerun.
        tolerance: on their difference, in percentage points; None where it was not needed.
        differs: what of the result differs, and from where on; empty where it is identical.
        reasons: what differs in the code or the machine, or leaves the bits open.
        not_compared: what the record lacks, in older ones and where files were left out.
    """

    run_id: str
    word: str
    recorded: float | None
    rerun: float | None
    tolerance: float | None = None
    differs: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    not_compared: tuple[str, ...] = ()


def compare(recorded: Result, rerun: Result, curves: tuple[bytes | None, bytes | None]) -> Verdict:
    """Judge a rerun.

    Identical: status, iteration, accuracy, training loss, curve.csv and the digest of the weights agree to the bit.
    Otherwise it needs a reason why bits may differ (`reasons`), the same status, and accuracies that differ by no more
    than `tolerance`. Without a reason any difference is one too many.

    Args:
        recorded: the record.
        rerun: that of the rerun, of the same run on the same data.
        curves: content of the two `curve.csv`; None where there is none.
    """
    numbers = ("status", "iteration", "test_accuracy", "train_loss")
    differs = [name for name in numbers if getattr(recorded, name) != getattr(rerun, name)]
    not_compared = []
    if None in curves:
        not_compared.append(CURVE)
    elif curves[0] != curves[1]:
        differs.append(_first_difference(*curves))
    if recorded.weights_sha256 is None or rerun.weights_sha256 is None:
        not_compared += ["weights"] if rerun.test_accuracy is not None else []
    elif recorded.weights_sha256 != rerun.weights_sha256:
        differs.append("weights")
    why = tuple(reasons(recorded, rerun))
    limit = tolerance(recorded, rerun) if differs else None
    word = DIFFERENT
    if not differs:
        word = IDENTICAL
    elif why and recorded.status == rerun.status != "error":
        gap = abs((recorded.test_accuracy or 0.0) - (rerun.test_accuracy or 0.0))
        word = WITHIN if limit is None or gap <= limit else DIFFERENT
    return Verdict(
        recorded.run.run_id, word, recorded.test_accuracy, rerun.test_accuracy, limit, tuple(differs), why,
        tuple(not_compared),
    )  # fmt: skip


def tolerance(recorded: Result, rerun: Result) -> float | None:
    """Largest difference of two test accuracies that chance explains, in percentage points.

    Once rounding has set two runs of a seed apart they are two trainings, and their accuracies are shares of the same n
    test images: 1.96 · √2 · √(p · (1 − p) / n), the 95 % limit of a difference of two such shares, with p their mean.

    Returns:
        None where a run has no accuracy, or n is not known.
    """
    images = rerun.test_images or recorded.test_images
    if recorded.test_accuracy is None or rerun.test_accuracy is None or not images:
        return None
    share = (recorded.test_accuracy + rerun.test_accuracy) / 200
    return 100 * Z * math.sqrt(2 * share * (1 - share) / images)


def reasons(recorded: Result, rerun: Result) -> Iterable[str]:
    """Name what differs between the code and the machine of two records, and what else leaves the bits open."""
    before, now = _made_by(recorded), _made_by(rerun)
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            yield f"{name}: {_word(before.get(name))} → {_word(now.get(name))}"
    results = {"record": recorded, "rerun": rerun}
    for name, result in results.items():
        if result.commit == "unknown":
            yield f"{name}: unknown commit"
        elif result.dirty is not False:
            yield f"{name}: code with changes"
        if result.options.get("device") != "cpu" and not result.options.get("deterministic"):
            yield f"{name}: not deterministic"
        if result.parts:
            yield f"{name}: trained in {len(result.parts)} parts by other code or on other machines"


def _made_by(result: Result) -> dict[str, Any]:
    # Not runs_per_device: it changes a run's time, and must not explain different bits.
    options: dict[str, Any] = {name: result.options.get(name) for name in ("threads", "deterministic")}
    environment = {name: value for name, value in (result.environment or {}).items() if name not in SAID_TWICE}
    return {"commit": result.commit[:12], "device": result.device, **options, **result.versions, **environment}


def _word(value: object) -> str:
    return "not recorded" if value is None else str(value)


def _first_difference(first: bytes | None, second: bytes | None) -> str:
    lines = [(curve or b"").decode("utf-8", "replace").splitlines() for curve in (first, second)]
    for one, other in zip(*lines, strict=False):
        if one != other:
            return f"{CURVE} from iteration {other.partition(',')[0]} on"
    return f"{CURVE}: number of rows"

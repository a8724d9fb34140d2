"""The activations of a table: facts about their functions, and how many units are dead before and after training."""

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

from replicate.report.document import Document


class Facts(NamedTuple):
    """Facts about an activation.

    Args:
        lowest: infimum of its values.
        highest: supremum of its values.
        zero_centred: whether its mean is 0 for input that is normal with mean 0.
        slopes: its derivative at -10 and at 10.
        gain: usual factor on weights of variance 1 / fan_in, as in torch's `calculate_gain`, where one is known; for
            PReLU that of He et al. 2015 at its first slope, 0.25.
    """

    lowest: float
    highest: float
    zero_centred: bool
    slopes: tuple[float, float]
    gain: float | None = None


def _rectifier(slope: float) -> Facts:
    """max(x, slope · x)."""
    lowest = -math.inf if slope else 0.0
    return Facts(lowest, math.inf, False, (slope, 1.0), math.sqrt(2 / (1 + slope**2)))


FACTS = {
    # of the largest piece, on whose weights the range depends
    "maxout": Facts(-math.inf, math.inf, False, (1.0, 1.0)),
    "relu": _rectifier(0.0),
    "vlrelu": _rectifier(1 / 3),
    "tanh": Facts(-1.0, 1.0, True, (8.245e-9, 8.245e-9), 5 / 3),
    "sigmoid": Facts(0.0, 1.0, False, (4.54e-5, 4.54e-5), 1.0),
    "leaky_relu": _rectifier(0.01),
    "leaky_relu_0.1": _rectifier(0.1),
    "prelu": _rectifier(0.25),
    "elu": Facts(-1.0, math.inf, False, (4.54e-5, 1.0)),
    "selu": Facts(-1.7581, math.inf, False, (7.982e-5, 1.0507), 0.75),
    "silu": Facts(-0.27846, math.inf, False, (-4.086e-4, 1.00041)),
    "gelu": Facts(-0.16997, math.inf, False, (0.0, 1.0)),
}


def activation_rows(doc: Document, dead: Mapping[str, tuple[list[float], list[float]]]) -> list[dict[str, Any]]:
    """Lay out the facts of a table's activations, and their shares of dead units.

    Args:
        doc: of the table.
        dead: activation -> share of dead units in each layer of each run, before and after training.

    Returns:
        One mapping per activation: `name`; `facts`, where we have them, with None for an infinite end of the range; and
        `dead_before` and `dead_after`, the mean share in %, None where no run has measured it.
    """
    axes = dict(zip(doc["axes"], (doc["rows"], doc["columns"]), strict=True))
    settings = doc["protocol"]["settings"]
    names = [one["value"] for one in axes["activation"]] if "activation" in axes else [settings["activation"]]
    rows = []
    for name in names:
        before, after = (100 * fmean(shares) if shares else None for shares in dead.get(name, ((), ())))
        facts = FACTS[name]._asdict() if name in FACTS else None
        if facts is not None:
            facts |= {end: None for end in ("lowest", "highest") if math.isinf(facts[end])}
        rows.append({"name": name, "facts": facts, "dead_before": before, "dead_after": after})
    return rows

from collections.abc import Callable
from typing import Any

import pytest

from replicate.report.init_reports import init_report
from replicate.run import Run
from replicate.store.result import Result


def entry(layer: str, piece: int, variance: Any, before: Any = None, tries: Any = None, converged: Any = None) -> Any:
    return {
        **{"layer": layer, "piece": piece, "variance": variance},
        **{"variance_before": before, "variance_after": None, "tries": tries, "converged": converged},
    }


def test_pieces_and_runs_of_a_layer_are_gathered(make_result: Callable[..., Result]) -> None:
    reports = [
        [
            entry("conv1", 0, 1.0, 0.5, 1, True),
            entry("conv1", 1, 4.0, 2.0, 3, False),
            entry("fc1", 0, 1.0, None, 0, True),
        ],
        [
            entry("conv1", 0, 2.0, 1.0, 2, True),
            entry("conv1", 1, None, 1.0, 20, False),
            entry("fc1", 0, 1.0, None, 0, True),
        ],
    ]
    made = [make_result(Run("lsuv", "maxout", seed=seed), 90.0, init=init) for seed, init in enumerate(reports)]
    conv, fc = init_report(made)
    assert (conv.layer, conv.pieces, conv.count) == ("conv1", 2, 4)
    assert conv.variance == pytest.approx(2)  # the third root of 1 · 4 · 2
    assert conv.range is not None
    assert (conv.range.low, conv.range.high) == (1.0, 4.0)
    assert conv.before == pytest.approx(1)
    assert (conv.tries, conv.settled) == ((1, 20), 2)
    assert (fc.tries, fc.settled, fc.before) == ((0, 0), 2, None)


def test_what_rescales_nothing_says_nothing_of_it(make_result: Callable[..., Result]) -> None:
    made = make_result(Run("msra", "relu"), 90.0, init=[entry("conv1", 0, None), entry("fc1", 0, None)])
    for layer in init_report([made]):
        assert (layer.variance, layer.range, layer.tries, layer.settled) == (None, None, None, None)
    assert init_report([]) == ()

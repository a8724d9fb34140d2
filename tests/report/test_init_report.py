from typing import Any

import pytest

from replicate.report.init_report import init_report


def entry(layer: str, piece: int, variance: Any, before: Any = None, tries: Any = None, converged: Any = None) -> Any:
    return {
        **{"layer": layer, "piece": piece, "variance": variance},
        **{"variance_before": before, "variance_after": None, "tries": tries, "converged": converged},
    }


def test_pieces_and_runs_of_a_layer_are_gathered() -> None:
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
    conv, fc = init_report(reports)
    assert (conv["layer"], conv["pieces"], conv["count"]) == ("conv1", 2, 4)
    assert conv["variance"] == pytest.approx(2)  # the third root of 1 · 4 · 2
    assert conv["range"] == [1.0, 4.0]
    assert conv["before"] == pytest.approx(1)
    assert (conv["tries"], conv["within"]) == ([1, 20], 2)
    assert (fc["tries"], fc["within"], fc["before"]) == ([0, 0], 2, None)


def test_without_rescaling_there_are_no_tries() -> None:
    for layer in init_report([[entry("conv1", 0, None), entry("fc1", 0, None)]]):
        assert (layer["variance"], layer["range"], layer["tries"], layer["within"]) == (None, None, None, None)
    assert init_report([]) == init_report([[]]) == []

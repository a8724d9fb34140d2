import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicate.report.layers import layer_flow, layer_spectra, measured_layers
from replicate.run import Run
from replicate.store.result import Result

AXES = ("init", "activation")
MakeResult = Callable[..., Result]


def layer(name: str = "conv1", piece: int = 0, variance: Any = 1.0, gradient: Any = 0.5, singular: Any = (2, 1)) -> Any:
    return {
        **{"name": name, "piece": piece, "variance": variance, "gradient_norm": gradient},
        "singular_values": list(singular),
    }


def write(out: Path, result: Result, *moments: tuple[int, list[Any]], **changes: Any) -> Path:
    folder = out / "runs" / result.run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    entries = [{"iteration": iteration, "layers": layers} for iteration, layers in moments]
    head = {"schema": 1, "run_id": result.run.run_id, "fingerprint": result.fingerprint}
    path = folder / "layers.json"
    path.write_text(json.dumps({**head, "moments": entries, **changes}))
    return path


def test_files_that_are_missing_or_broken_do_not_stop_the_others(tmp_path: Path, make_result: MakeResult) -> None:
    results = [make_result(Run("lsuv", "relu", seed=seed), 90.0) for seed in range(3)]
    write(tmp_path, results[0], (0, [layer()]), (1000, [layer()]))
    broken = write(tmp_path, results[1], (0, [layer()]))
    broken.write_text(broken.read_text()[:-9])
    found = measured_layers(results, tmp_path)
    assert list(found.moments) == [results[0].run.run_id]
    assert list(found.bad) == [broken]
    assert found.iterations() == (0, 1000)


def test_flow_averages_runs_and_pieces_geometrically(tmp_path: Path, make_result: MakeResult) -> None:
    results = [make_result(Run("lsuv", "maxout", seed=seed), 90.0) for seed in range(2)]
    write(tmp_path, results[0], (0, [layer(piece=0, variance=1), layer(piece=1, variance=4), layer("fc1", variance=9)]))
    write(
        tmp_path, results[1], (0, [layer(piece=0, variance=2), layer(piece=1, variance=0), layer("fc1", variance=None)])
    )
    flow = layer_flow(results, measured_layers(results, tmp_path), *AXES, "variance")
    assert flow[["row", "column", "iteration", "position", "layer"]].to_numpy().tolist() == [
        ["lsuv", "maxout", 0, 0, "conv1"],
        ["lsuv", "maxout", 0, 1, "fc1"],
    ]
    assert flow["mean"].tolist() == pytest.approx([2, 9])  # the third root of 1 · 4 · 2
    assert flow["low"].tolist() == pytest.approx([1, 9])
    assert flow["high"].tolist() == pytest.approx([4, 9])
    assert flow.attrs["left_out"] == 2


def test_spectra_are_those_of_the_first_and_the_last_moment(tmp_path: Path, make_result: MakeResult) -> None:
    results = [make_result(Run("lsuv", "relu", seed=seed), 90.0) for seed in range(2)]
    for result, factor in zip(results, (1, 4), strict=True):
        start, end = [8.0 * factor, 2.0 * factor, 0.0], [2.0 * factor, 1.0 * factor, 0.5 * factor]
        moments = [(0, [layer(singular=start)]), (1000, [layer(singular=(7, 7, 7))]), (9000, [layer(singular=end)])]
        write(tmp_path, result, *moments)
    spectra = layer_spectra(results, measured_layers(results, tmp_path), *AXES)
    values = {(row.after, row.share): row.value for row in spectra.itertuples()}
    # geometric means of one and four times; the value of zero has no place on a log scale
    assert values == pytest.approx({(False, 0): 16, (False, 0.5): 4, (True, 0): 4, (True, 0.5): 2, (True, 1): 1})

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicate.report.layers import layer_flow, layer_spectra, measured_layers, read_layers
from replicate.results import BadRecordError, Result
from replicate.run import Run

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


@pytest.fixture
def result(make_result: MakeResult) -> Result:
    return make_result(Run("lsuv", "relu"), 90.0)


def test_moments_are_read(tmp_path: Path, result: Result) -> None:
    path = write(tmp_path, result, (0, [layer(variance=None, singular=(3, None, 1))]), (90_000, [layer()]))
    first, last = read_layers(path, result)
    assert (first.iteration, last.iteration) == (0, 90_000)
    assert first.layers[0].variance is None
    assert first.layers[0].singular_values == (3.0, 1.0)
    assert (last.layers[0].name, last.layers[0].gradient_norm) == ("conv1", 0.5)


@pytest.mark.parametrize(
    ("moments", "changes", "message"),
    [
        ([], {"schema": 2}, "not layers of schema 1"),
        ([], {"run_id": "x"}, "run_id is 'x', that of the record is 'lsuv-relu-s0-"),
        ([], {"fingerprint": "ab"}, "fingerprint is 'ab'"),
        ([], {"moments": {}}, "moments is no list"),
        ([(0, [layer(variance=-1)])], {}, "variance holds -1"),
        ([(0, [layer(variance=math.inf)])], {}, "variance holds inf"),
        ([(0, [layer(gradient=True)])], {}, "gradient_norm holds True"),
        ([(0, [layer(singular=["1"])])], {}, "singular_values holds '1'"),
        ([(0, [layer(name=1)])], {}, "a layer is named 1"),  # type: ignore[arg-type]
        ([(0, [{"name": "conv1", "piece": 0, "singular_values": []}])], {}, "variance is missing"),
        ([(-1, [])], {}, "iteration is -1"),
        ([(5, []), (5, [])], {}, "do not ascend"),
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, result: Result, moments: Any, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, result, *moments, **changes)
    with pytest.raises(BadRecordError) as caught:
        read_layers(path, result)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


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

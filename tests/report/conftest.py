import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up_records import HEAD, ROOT, layer, make_records, make_result, write_layers, write_predictions

from replicate.experiment import Experiment, TableSpec
from replicate.report.document import Document, document
from replicate.run import Run
from replicate.store.result import Result


@pytest.fixture
def small() -> Experiment:
    """Two inits, two activations and three seeds, by the paper's protocol; one cell is a dash."""
    paper = ROOT / "results" / "paper"
    return Experiment(
        name="small",
        grid={"init": ("lsuv", "orthonormal_msra"), "activation": ("maxout", "relu"), "seed": (0, 1, 2)},
        exclude=({"init": "orthonormal_msra", "activation": "maxout"},),
        table=TableSpec(reference=paper / "table3.csv", claims=paper / "claims.yaml"),
    )


@pytest.fixture
def small_results(small: Experiment) -> list[Result]:
    """LSUV × maxout at 93.8, 94.0 and 94.2; LSUV × ReLU at 92.1, 92.3 and chance; the last: one diverged."""
    numbers = {
        ("lsuv", "maxout"): (93.8, 94.0, 94.2),
        ("lsuv", "relu"): (92.1, 92.3, 10.0),
        ("orthonormal_msra", "relu"): (None,),
    }
    return _results(small, numbers)


@pytest.fixture
def doc(small: Experiment, small_results: list[Result]) -> Document:
    return document(small, small.runs(), make_records(small_results))


@pytest.fixture
def everything(tmp_path: Path, small: Experiment) -> Document:
    """A table with every kind of cell, and with curves, layers, reports and predictions in `tmp_path`.

    Its numbers are literal, so the rendered files are the same on every machine.
    """
    asked = small.with_settings({"init": ["lsuv", "xavier", "orthonormal_msra"]})
    numbers: dict[tuple[str, str], tuple[float | None, ...]] = {
        ("lsuv", "maxout"): (93.8, 94.0, 94.2),
        ("lsuv", "relu"): (92.1, 92.3, 10.0),
        ("xavier", "maxout"): (91.5, 91.9, 92.0),
        ("xavier", "relu"): (None, None),
        ("orthonormal_msra", "relu"): (),
    }
    crash = {"status": "error", "fingerprint": "unknown", "error": "Traceback:\n  here\nOSError: no | room\n"}
    made = []
    for plain in _results(asked, numbers):
        run = plain.run
        changes = crash if (run.init, run.activation, run.seed) == ("xavier", "relu", 1) else {}
        result = replace(plain, data_label="cifar10_jpeg 100% <b>|", init=_init_report(run), **changes)
        made.append(result)
        folder = tmp_path / "runs" / run.run_id
        folder.mkdir(parents=True)
        if (accuracy := result.test_accuracy) is not None:
            rows = f"45000,115.2,0.01,1,50,1,{accuracy / 2}\n90000,230.4,0.001,0.25,90,0.5,{accuracy}\n"
            (folder / "curve.csv").write_text(HEAD + rows)
            write_predictions(folder, accuracy, run.seed)
            layers = [layer(variance=0.5, gradient=0.01, singular=(2.0, 1.0))]
            write_layers(folder, result, {0: layers, 1000: layers})
    bad = {Path("/home/me/x/result.json"): "not a <whole> result"}
    return document(asked, asked.runs(), make_records(made, others=2, bad=bad))


def _results(experiment: Experiment, numbers: Any) -> list[Result]:
    return [
        make_result(run, numbers[run.init, run.activation][run.seed])
        for run in experiment.runs()
        if run.seed < len(numbers[run.init, run.activation])
    ]


def _init_report(run: Run) -> list[dict[str, Any]]:
    """Two pieces of one layer: LSUV rescales them, within the tolerance and not; the others only measure."""
    pieces = []
    for piece, (variance, tries) in enumerate(((1.01, 1), (4.0, 20))):
        report = {"layer": "conv1", "piece": piece, "variance": variance, "variance_after": None}
        rescaled = {"variance_before": variance / 2, "tries": tries, "converged": tries == 1}
        pieces.append({**report, **(rescaled if run.init == "lsuv" else dict.fromkeys(rescaled))})
    return pieces


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """Compare a text with a file in tests/report/golden; UPDATE_GOLDEN=1 in the environment writes the file instead."""

    def compare(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        expected = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            assert json.loads(text) == json.loads(expected, parse_float=_approximately)
        else:
            assert text == expected

    return compare


def _approximately(number: str) -> Any:
    """Expect a number whose last digits may differ, as they do between processors."""
    return pytest.approx(float(number), rel=1e-9)

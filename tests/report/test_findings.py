from collections.abc import Iterable

import pytest
from made_up_records import make_records, make_result, many

from replicate.experiment import Experiment, TableSpec
from replicate.report.document import Document, document
from replicate.report.findings import description, findings, reasons
from replicate.store.result import Result

LR_BY_WIDTH = TableSpec(rows="lr", columns="width")


def of(experiment: Experiment, results: Iterable[Result] = ()) -> Document:
    return document(experiment, experiment.runs(), make_records(results))


def test_description(doc: Document) -> None:
    assert description(doc) == [
        "This experiment trains the 17-layer FitNet-4 at width 1 on CIFAR-10, with 2 initialisations (LSUV, "
        "OrthoNorm-MSRA scaled) and 2 activations (maxout, ReLU).",
        "Each of its 9 runs (3 cells, 3 seeds) takes 90,000 iterations of 128 images; learning rate 0.01, times 0.1 at "
        "40,000 / 60,000 / 80,000; momentum 0.9; weight decay 0.0005.",
    ]


def test_description_of_other_axes() -> None:
    grid = {"width": (0.25, 0.5), "init": ("lsuv",), "seed": (0,)}
    asked = Experiment(name="widths", grid=grid, run={"activation": "relu"}, table={"rows": "width", "columns": "init"})
    first, second = description(of(asked))
    assert first == (
        "This experiment trains the 17-layer FitNet-4 (activation ReLU) on cifar10, with 2 values of width "
        "(0.25, 0.5) and 1 initialisation (LSUV)."
    )
    assert second.startswith("Each of its 2 runs (2 cells, 1 seed) takes 90,000 iterations")


def test_one_run_is_described_in_the_singular() -> None:
    asked = many(1).with_settings({"init": ["lsuv"], "activation": ["relu"]})
    doc = of(asked, [make_result(run, 93.0) for run in asked.runs()])
    assert description(doc)[1].startswith("Its run (1 cell, 1 seed) takes 90,000 iterations")
    assert findings(doc)[:2] == [
        "1 of 1 cell converged; one run per cell.",
        "1 of 1 cell agrees with the paper on whether it converges; no published number is judged (fewer than 3 runs).",
    ]


def test_a_value_and_a_number_of_cells_are_told_apart() -> None:
    grid = {"lr": (0.01, 0.1), "width": (0.25, 0.5), "seed": (0,)}
    asked = Experiment(name="lr", grid=grid, run={"init": "lsuv", "activation": "relu"}, table=LR_BY_WIDTH)
    doc = of(asked, [make_result(run, 50.0 if run.lr < 0.1 else None) for run in asked.runs()])
    assert findings(doc) == ["2 of 4 cells converged, by lr: 0.01 (2 of 2), 0.1 (0 of 2); one run per cell."]
    doc = of(asked, [make_result(asked.runs()[0], 50.0)])
    assert findings(doc) == ["1 of the 1 cell that has results converged; one run per cell."]


def test_findings_of_numbers_that_compare(doc: Document) -> None:
    # LSUV × maxout: 93.8, 94.0 and 94.2, so +0.06 to the paper's 93.94; LSUV × ReLU: 92.1 and 92.3, so +0.09 to 92.11;
    # the only run of OrthoNorm-MSRA scaled × ReLU diverged
    assert findings(doc) == [
        "2 of 3 cells converged, by initialisation: LSUV (2 of 2), OrthoNorm-MSRA scaled (0 of 1).",
        "2 of 3 cells agree with the paper on whether they converge (n/c only here: OrthoNorm-MSRA scaled × ReLU); "
        "ours against 1 published number: 1 consistent; the largest difference is "
        "+0.06 points (LSUV × maxout).",
        "The paper's claims: 7 undecided (not in this experiment; no rival in this experiment; fewer than 3 runs in "
        "every cell).",
    ]


def test_findings_of_the_whole_table() -> None:
    asked = many(3)
    # all converge at the same accuracy, but sigmoid once, so that every kind of verdict occurs
    levels = {"sigmoid": (10.0, 10.0, 10.0), "maxout": (93.8, 94.0, 94.2)}
    results = [make_result(run, levels.get(run.activation, (92.0, 92.2, 92.4))[run.seed]) for run in asked.runs()]
    first, second, third = findings(of(asked, results))
    assert first == (
        "18 of 23 cells converged, by initialisation: LSUV (4 of 5), OrthoNorm (4 of 5), OrthoNorm-MSRA scaled "
        "(2 of 3), Xavier (4 of 5), MSRA (4 of 5)."
    )
    # half width: t(36) = 2.03 · 0.2 · √(4/3) = 0.47; within it LSUV × maxout (+0.06), OrthoNorm × maxout (+0.22),
    # LSUV × ReLU (+0.09), OrthoNorm × ReLU (+0.46), OrthoNorm-MSRA × ReLU (+0.27), and of VLReLU OrthoNorm (−0.20),
    # Xavier (−0.07) and MSRA (−0.23); lower: VLReLU with LSUV (−0.77) and OrthoNorm-MSRA (−0.89)
    assert second == (
        "22 of 23 cells agree with the paper on whether they converge (n/c only in the paper: MSRA × maxout); ours "
        "against 23 published numbers: 13 consistent, 8 higher, 2 lower; the largest difference is "
        "+2.92 points (LSUV × tanh)."
    )
    assert third.startswith(
        "The paper's claims: 1 supported, 1 contradicted (MSRA does not converge with maxout), 5 und"
    )
    assert third.endswith("undecided (not significant; power 4 to 87 %).")


def test_findings_of_one_run_per_cell_at_another_width() -> None:
    asked = many(1).with_settings({"width": 0.25})
    results = [make_result(run, None if run.init == "msra" else 40.0) for run in asked.runs() if run.init != "lsuv"]
    assert findings(of(asked, results)) == [
        "13 of the 18 cells that have results converged, by initialisation: OrthoNorm (5 of 5), OrthoNorm-MSRA "
        "scaled (3 of 3), Xavier (5 of 5), MSRA (0 of 5); one run per cell.",
        "12 of 18 cells agree with the paper on whether they converge (n/c only here: MSRA × ReLU, MSRA × VLReLU, "
        "MSRA × "
        "tanh; n/c only in the paper: OrthoNorm × sigmoid, OrthoNorm-MSRA scaled × sigmoid, Xavier × sigmoid); the "
        "accuracies do not compare with the published ones, because the settings differ.",
        "The paper's claims: 1 contradicted (Sigmoid never converges, whatever the initialisation), 6 undecided "
        "(fewer than 3 runs in every cell).",
    ]


@pytest.mark.parametrize("judged", [1, 2])
def test_findings_of_too_few_runs(small: Experiment, judged: int) -> None:
    runs = [run for run in small.runs() if run.seed < judged]
    _, second, _ = findings(document(small, tuple(runs), make_records(make_result(run, 93.0) for run in runs)))
    assert second == (
        "3 of 3 cells agree with the paper on whether they converge; no published number is judged (fewer than 3 runs)."
    )


def test_findings_of_nothing(small: Experiment) -> None:
    assert findings(of(small)) == ["No run has finished yet, so nothing is known."]
    asked = small.with_settings({"dataset": "synthetic"})
    doc = of(asked, [make_result(run, 90.0) for run in asked.runs()])
    assert findings(doc) == [doc["protocol"]["warning"]]
    assert "mean nothing" in findings(doc)[0]


def test_reasons_without_their_details() -> None:
    found = ["n < 3: LSUV × ReLU (n = 2)", "no rival in this experiment", "n = 1 < 3"]
    assert reasons({"reason": reason} for reason in found) == ["fewer than 3 runs", "no rival in this experiment"]
    found = ["n < 3 in every cell", "n < 3: LSUV × ReLU (n = 2)"]
    assert reasons({"reason": reason} for reason in found) == ["fewer than 3 runs"]

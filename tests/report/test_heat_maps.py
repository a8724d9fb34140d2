from dataclasses import replace

import pytest
from made_up_records import make_records, make_result
from matplotlib.axes import Axes

from replicate.experiment import Experiment, TableSpec
from replicate.report.document import Document, document
from replicate.report.heat_maps import cost, heat_map, iterations_to


def texts(axes: Axes) -> list[str]:
    """Texts from left to right, from top to bottom."""
    return [text.get_text() for text in sorted(axes.texts, key=lambda text: text.get_position()[::-1])]


def test_ours_and_the_papers_on_one_scale(doc: Document) -> None:
    picture = heat_map(doc)
    ours, paper, _ = picture.figure.axes
    assert texts(ours) == ["94.0 ± 0.2\nn=3", "92.2 ± 0.1\nn=2, 1 n/c", "–", "n/c\n1/1\n… 1/3"]
    assert texts(paper) == ["93.94", "92.11", "–", "91.93"]
    assert ours.collections[0].get_clim() == paper.collections[0].get_clim() == pytest.approx((91.93, 94))
    assert "Both panels have the same colour scale." in picture.notes
    assert {text.get_text(): text.get_color() for text in paper.texts} == {
        "93.94": "0.1",
        "92.11": "white",
        "–": "0.1",
        "91.93": "white",
    }
    assert [label.get_text() for label in ours.get_xticklabels()] == ["maxout", "ReLU"]
    assert [label.get_text() for label in ours.get_yticklabels()] == ["LSUV", "OrthoNorm-MSRA scaled"]


def test_numbers_that_do_not_compare_and_none_that_converged(small: Experiment) -> None:
    half = small.with_settings({"width": 0.5, "seed": [0]})
    narrow = document(half, half.runs(), make_records(make_result(run, 50.0) for run in half.runs()))
    picture = heat_map(narrow)
    ours, paper, *bars = picture.figure.axes
    assert (paper.get_title(), len(bars)) == ("paper (not comparable)", 2)
    assert [axes.collections[0].get_clim() for axes in (ours, paper)] == [(45, 55), (91.93, 93.94)]
    assert picture.notes[1:] == (
        "Each panel has its own colour scale.",
        "Not comparable with the paper: width 0.5 (paper: 1).",
    )
    chance = make_records(make_result(run, 10.0) for run in half.runs())
    failed = document(replace(half, table=TableSpec()), half.runs(), chance)
    assert texts(heat_map(failed).figure.axes[0]) == ["n/c\n1/1", "n/c\n1/1", "–", "n/c\n1/1"]


def test_the_first_tests_with_half_and_80_percent_of_the_last_accuracy() -> None:
    assert iterations_to({100: 39.9, 200: 40.0, 300: 63.0, 400: 70.0, 500: 80.0}) == [200, 400]
    assert iterations_to({100: 90.0, 200: 50.0}) == [100, 100]  # it has fallen


def test_how_fast_the_runs_of_a_cell_learn(doc: Document) -> None:
    def run(*y: float | None, kind: str = "run", column: int = 0) -> dict[str, object]:
        return {"row": 0, "column": column, "kind": kind, "y": [*y, y[-1], y[-1]]}

    runs = [run(50, 90, 90), run(20, 40, 60), run(None, 80, 90), run(1, 1, 92, kind="mean")]
    chart = {"x": [1000, 2000, 3000, 4000, 5000], "lines": [*runs, run(10, 10, 10, kind="failed", column=1)]}
    for number, one in enumerate(doc["runs"]):
        one["images_per_second"] = 100.0 * number if number else None
        one["init_passes"] = number
    picture = cost(doc, chart)
    half, most, speed, passes, *_ = picture.figure.axes
    assert half.get_title() == "to 50 % of the final accuracy"
    # 1000, 2000 and 2000; 2000, 3000 and 2000; ReLU's cell has a mean and no curve
    assert texts(half) == ["1,667", "", "–", "n/c"]
    assert texts(most)[0] == "2,333"
    cells = [cell["run_ids"] for cell in doc["cells"]]
    numbers = {one["run_id"]: number for number, one in enumerate(doc["runs"])}
    of_cell = sorted(100 * numbers[run_id] for run_id in cells[1])
    assert texts(speed)[1] == f"{of_cell[1]}"  # the median of three
    assert texts(passes)[1] == f"{of_cell[1] / 100:.0f}"
    assert cost(doc, {"x": [1000], "lines": []}) is None
    few = {"x": [1000, 2000], "lines": [{**run(50, 90), "y": [50, 90]}]}  # the iterations would say little
    assert [axes.get_title() for axes in cost(doc, few).figure.axes[:2]] == [speed.get_title(), passes.get_title()]

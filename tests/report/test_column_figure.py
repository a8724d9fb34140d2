import numpy as np
import pytest
from made_up_records import make_records, make_result
from matplotlib.lines import Line2D

from replicate.experiment import Experiment, TableSpec
from replicate.report.column_figure import by_column
from replicate.report.document import Document, document
from replicate.run import Run
from replicate.store.result import Result


def points(line: Line2D) -> list[tuple[float, float]]:
    return [*zip(*line.get_data(), strict=True)]


def table(
    columns: str, values: tuple[object, ...], accuracy: dict[tuple[str, int], float], layers: int = 1
) -> Document:
    grid = {"activation": ("relu",), columns: values, "init": ("lsuv", "msra"), "seed": (0, 1)}
    experiment = Experiment(name="t", grid=grid, table=TableSpec(rows="init", columns=columns))

    def result(run: Run) -> Result:
        number = layers * int(run.model[-1])
        reports = [{"layer": f"conv{index}", "piece": piece} for index in range(number) for piece in (0, 1)]
        empty = dict.fromkeys(("variance", "variance_before", "variance_after", "tries", "converged"))
        return make_result(run, accuracy[run.init, run.seed], init=[{**one, **empty} for one in reports])

    return document(experiment, experiment.runs(), make_records(map(result, experiment.runs())))


ACCURACIES = {("lsuv", 0): 40.0, ("lsuv", 1): 60.0, ("msra", 0): 10.0, ("msra", 1): 30.0}


def test_accuracy_share_and_variance_by_a_number() -> None:
    doc = table("lsuv_batch_size", (512, 2, 32), ACCURACIES)
    two, many = ({"y": [0.5, 2.0, None], "low": [0.4, 1.5, None], "high": [0.6, 3.0, None]}, {"y": [1.0, 4.0]})
    lines = [{"row": 0, "column": 1, **two}, {"row": 0, "column": 2, **many, "low": many["y"], "high": many["y"]}]
    variances = {"lines": lines}
    figure = by_column(doc, variances).figure
    accuracy, share, variance = figure.axes
    (dots, *_), means = accuracy.get_lines()[:3], [line for line in accuracy.get_lines() if len(line.get_xdata()) == 3]
    assert points(dots) == [(2, 40), (2, 60)]
    assert [points(line) for line in means] == [[(2, 50), (32, 50), (512, 50)], [(2, 30), (32, 30), (512, 30)]]
    assert [[y for _, y in points(line)] for line in share.get_lines()] == [[100] * 3, [50] * 3]
    line, _, target = variance.get_lines()
    assert points(line)[:2] == [(2, pytest.approx(1)), (32, pytest.approx(2))]  # geometric means
    assert np.isnan(line.get_ydata()[2])
    assert [y for _, y in points(target)] == [1, 1]
    band, _ = variance.collections
    assert band.get_datalim(variance.transData).bounds == pytest.approx((2, 0.4, 30, 3.6))
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
    assert [axes.get_xlabel() for axes in figure.axes] == ["lsuv batch size"] * 3
    assert figure.legends[0].get_title().get_text() == "initialisation"


def test_a_cell_without_a_mean_interrupts_the_line_and_unknown_models_are_left_out() -> None:
    doc = table("model", ("fitnet4", "fitnet4_x2", "fitnet4_x3", "fitnet4_x5"), ACCURACIES, layers=19)
    doc["cells"][2]["mean"] = None
    accuracy, *_ = by_column(doc, None).figure.axes
    line = next(line for line in accuracy.get_lines() if len(line.get_xdata()) == 4)
    assert line.get_xdata().tolist() == [38, 57, 76, 95]  # the number at the end of the name, times 19
    assert np.array_equal(line.get_ydata(), [50, np.nan, 50, 50], equal_nan=True)
    doc["runs"] = [run for run in doc["runs"] if run["run"]["model"] != "fitnet4_x5"]
    assert [x for x, _ in points(by_column(doc, None).figure.axes[1].get_lines()[0])] == [38, 57, 76]
    doc["runs"] = [run for run in doc["runs"] if run["run"]["model"] != "fitnet4_x3"]
    assert by_column(doc, None) is None


def test_models_count_by_their_weight_layers() -> None:
    doc = table("model", ("fitnet4", "fitnet4_x2", "fitnet4_x5"), ACCURACIES, layers=19)
    picture = by_column(doc, None)
    assert [x for x, _ in points(picture.figure.axes[1].get_lines()[0])] == [38, 76, 95]
    assert (picture.title, picture.figure.axes[0].get_xscale()) == ("by weight layers", "linear")


@pytest.mark.parametrize(
    ("columns", "values"),
    [("lr", (0.1, 0.2)), ("lsuv_dropout", (True, False)), ("activation", ("relu", "elu", "tanh"))],
)
def test_no_figure_for_few_columns_and_for_names(columns: str, values: tuple[object, ...]) -> None:
    assert by_column(table(columns, values, ACCURACIES), None) is None

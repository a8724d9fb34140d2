from pathlib import Path

import pytest
from drawn import AXES, layout, legend, xs, ys
from made_up_records import LAYERS, fill

from replicate.experiment import Experiment
from replicate.report.layer_figures import early_moments, flow_figure, spectra_figure, variance_figure
from replicate.report.layers import layer_flow, layer_spectra, measured_layers
from replicate.report.series import layer_variances
from replicate.store.result import Result


def test_variances_over_layers(small: Experiment, curve_results: list[Result]) -> None:
    figure = variance_figure(layout(small, curve_results), layer_variances(curve_results, *AXES))
    maxout, relu = figure.axes
    target, lsuv = maxout.get_lines()
    assert ys(target) == [1, 1]
    assert ys(lsuv) == pytest.approx([0.5] * 3)
    assert len(relu.get_lines()) == 2  # the other initialisation's variances are not finite
    assert maxout.get_yscale() == "log"
    assert maxout.yaxis.get_major_formatter()(1e-12) == "10⁻¹²"
    assert [label.get_text() for label in maxout.get_xticklabels()] == ["conv1", "conv2", "fc1"]
    assert maxout.get_ylabel() == "variance of the pre-activation"
    assert legend(figure) == ["LSUV", "OrthoNorm-MSRA scaled", "1, the target of LSUV"]
    assert figure.get_supxlabel().endswith("left out: 3 that are zero, not finite or not measured")


def test_flow_at_the_start_and_early(small: Experiment, tmp_path: Path) -> None:
    made = fill(tmp_path, small.runs(), points=2)
    flow = layer_flow(made, measured_layers(made, tmp_path), *AXES, "gradient_norm")
    figure = flow_figure(layout(small, made), flow, "gradients", "norm", level=False)
    start, _, later, _ = figure.axes
    assert start.get_title() == "maxout"
    assert start.get_ylabel() == "after initialisation\nnorm"
    assert later.get_ylabel() == "after 1,000 iterations\nnorm"
    (line,) = start.get_lines()  # OrthoNorm-MSRA scaled × maxout is a dash
    here = flow[(flow["row"] == "lsuv") & (flow["column"] == "maxout") & (flow["iteration"] == 0)]
    assert xs(line) == list(range(len(LAYERS)))
    assert ys(line) == pytest.approx(here["mean"].to_list())
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert legend(figure) == ["LSUV", "OrthoNorm-MSRA scaled"]
    figure = flow_figure(layout(small, made), flow, "variances", "variance", level=True)
    assert legend(figure)[-1] == "1, the target of LSUV"


def test_short_runs_show_their_last_moment(small: Experiment, tmp_path: Path) -> None:
    made = fill(tmp_path, small.runs(), points=2)
    flow = layer_flow(made, measured_layers(made, tmp_path), *AXES, "variance")
    assert early_moments(flow) == [0, 1000]
    assert early_moments(flow[flow["iteration"] != 1000]) == [0, 90_000]
    assert early_moments(flow[flow["iteration"] == 0]) == [0]


def test_spectra_before_and_after(small: Experiment, tmp_path: Path) -> None:
    made = fill(tmp_path, small.runs(), points=2)
    spectra = layer_spectra(made, measured_layers(made, tmp_path), *AXES)
    figure = spectra_figure(layout(small, made), spectra)
    # the first, the middle and the last of 19 layers, two activations
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == [
        f"{name}\nsingular value" for name in ("conv1", "conv10", "fc2")
    ]
    before, after = figure.axes[0].get_lines()
    assert before.get_linestyle() != after.get_linestyle() == "-"
    here = spectra[(spectra["row"] == "lsuv") & (spectra["column"] == "maxout") & (spectra["position"] == 0)]
    assert ys(after) == pytest.approx(here[here["after"]]["value"].to_list())
    assert ys(before) == pytest.approx(here[~here["after"]]["value"].to_list())
    assert legend(figure)[-2:] == ["after initialisation", "at the end"]

from collections.abc import Callable
from dataclasses import replace

import pytest

from replicate.errors import UsageError
from replicate.report.protocol import protocol
from replicate.run import Run
from replicate.store.result import Result

AXES = ("init", "activation")
RUNS = (Run("lsuv", "relu"), Run("lsuv", "tanh"), Run("xavier", "relu", seed=1, momentum=0.5))


def test_the_header_names_what_most_runs_share(make_result: Callable[..., Result]) -> None:
    header = protocol(RUNS, [make_result(run, 90.0) for run in RUNS], AXES)
    texts = header.texts()
    assert texts["summary"] == "CIFAR-10, fitnet4 at width 1, 90,000 iterations, bf16-mixed"
    assert texts["schedule"] == (
        "90,000 iterations of 128 images; learning rate 0.01, times 0.1 at 40,000 / 60,000 / 80,000; momentum 0.9; "
        "weight decay 0.0005"
    )
    assert texts["preprocessing"] == "gcn-mean-image, times 0.7"
    assert (texts["network"], texts["precision"], header.seeds) == ("fitnet4, width 1", "bf16-mixed", (0, 1))
    assert [header.departures(run) for run in RUNS] == ["", "", "momentum 0.5"]


def test_an_axis_is_no_shared_setting(make_result: Callable[..., Result]) -> None:
    runs = [Run("lsuv", "relu", width=0.5), Run("lsuv", "relu", width=0.25)]
    header = protocol(runs, [make_result(run, 90.0) for run in runs], ("width", "activation"))
    assert header.texts()["network"] == "fitnet4, width (an axis of the table)"
    assert header.departures(runs[1]) == ""


def test_two_data_sets_are_refused_and_named(make_result: Callable[..., Result]) -> None:
    jpeg = make_result(RUNS[2], 80.0, data_label="cifar10-jpeg", fingerprint="ab" * 32)
    with pytest.raises(UsageError) as caught:
        protocol(RUNS, [*(make_result(run, 90.0) for run in RUNS[:2]), jpeg], AXES)
    assert f"2 on CIFAR-10 ({'3f' * 32}) and 1 on cifar10-jpeg ({'ab' * 32})" in str(caught.value)


def test_a_run_that_failed_before_it_read_data_is_on_no_data_set(make_result: Callable[..., Result]) -> None:
    crashed = make_result(RUNS[0], None, "error", fingerprint="unknown", data_label="unknown")
    header = protocol(RUNS, [crashed, make_result(RUNS[1], 90.0)], AXES)
    assert (header.data_label, header.fingerprint) == ("CIFAR-10", "3f" * 32)
    assert protocol(RUNS, [replace(crashed)], AXES).data_label == "cifar10"

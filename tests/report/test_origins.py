from collections.abc import Callable

import pytest

from replicate.report.origins import origins
from replicate.run import Run
from replicate.store.result import Result


def test_hours_are_counted_by_device(make_result: Callable[..., Result]) -> None:
    made = [
        make_result(
            Run("lsuv", "relu", seed=0), 90.0, seconds=3600.0, options={"device": "cuda", "threads": 4}, device="A"
        ),
        make_result(Run("lsuv", "relu", seed=1), 90.0, seconds=1800.0, options={"device": "cuda"}, device="A"),
        make_result(
            Run("lsuv", "relu", seed=2), None, seconds=1800.0, options={"device": "cpu", "threads": 2}, device="B"
        ),
    ]
    found = origins(made)
    assert [(d.name, d.kind, d.runs, d.hours) for d in found.devices] == [("A", "GPU", 2, 1.5), ("B", "CPU", 1, 1.0)]
    assert (found.hours("GPU"), found.hours("CPU")) == (1.5, 1.0)


def test_code_versions_data_and_times(make_result: Callable[..., Result]) -> None:
    times = ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    made = [
        make_result(
            Run("lsuv", "relu", seed=seed), 90.0, finished=when, versions={"torch": f"2.{seed}"}, dirty=seed == 1
        )
        for seed, when in enumerate(times)
    ]
    found = origins(made)
    assert found.code == {("0123456789abcdef", False): 1, ("0123456789abcdef", True): 1}
    assert found.versions == {"torch": {"2.0": 1, "2.1": 1}}
    assert found.data == {("CIFAR-10", "3f" * 32): 2}
    assert (found.first, found.last) == (times[1], times[0])


def test_no_record_has_no_origin() -> None:
    found = origins([])
    assert (found.devices, found.first, found.last, found.hours("GPU")) == ((), "", "", pytest.approx(0))

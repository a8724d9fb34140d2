from collections.abc import Callable

from replicate.report.provenance import provenance
from replicate.run import Run
from replicate.store.result import Result


def test_hours_are_counted_by_device(make_result: Callable[..., Result]) -> None:
    gpu, cpu = {"device": "cuda", "threads": 4}, {"device": "cpu", "threads": 2}
    found = provenance([
        make_result(Run("lsuv", "relu", seed=0), 90.0, seconds=3600.0, options=gpu, device="A"),
        make_result(Run("lsuv", "relu", seed=1), 90.0, seconds=1800.0, options={"device": "cuda"}, device="A"),
        make_result(Run("lsuv", "relu", seed=2), None, seconds=1800.0, options=cpu, device="B"),
    ])  # fmt: skip
    assert found["devices"] == [
        {"name": "A", "kind": "GPU", "runs": 2, "hours": 1.5},
        {"name": "B", "kind": "CPU", "runs": 1, "hours": 1.0},
    ]
    assert found["hours"] == {"GPU": 1.5, "CPU": 1.0}


def test_code_versions_data_and_times(make_result: Callable[..., Result]) -> None:
    times = ("2026-01-02T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
    found = provenance([
        make_result(Run("lsuv", "relu", seed), 90.0, finished=when, versions={"torch": f"2.{seed}"}, dirty=seed == 1)
        for seed, when in enumerate(times)
    ])  # fmt: skip
    assert found["code"] == [
        {"commit": "0123456789abcdef", "dirty": False, "runs": 1},
        {"commit": "0123456789abcdef", "dirty": True, "runs": 1},
    ]
    assert found["versions"] == {"torch": {"2.0": 1, "2.1": 1}}
    assert found["data"] == [{"label": "CIFAR-10", "fingerprint": "3f" * 32, "runs": 2}]
    assert (found["first_finished"], found["last_finished"]) == (times[1], times[0])


def test_without_records_there_is_nothing_to_name() -> None:
    found = provenance([])
    assert (found["devices"], found["hours"], found["first_finished"]) == ([], {}, None)

from dataclasses import replace

import pytest
from made_up_records import make_records, make_result

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.document import document
from replicate.report.summary import departures, provenance, shared_protocol
from replicate.run import Run
from replicate.store.result import Result

AXES = ("init", "activation")
RUNS = (Run("lsuv", "relu"), Run("lsuv", "tanh"), Run("xavier", "relu", seed=1, momentum=0.5))


def test_the_header_names_what_most_runs_share() -> None:
    protocol = shared_protocol(RUNS, [make_result(run, 90.0, data_label="{a}") for run in RUNS], AXES)
    assert protocol["shown"]["summary"] == "{a}, fitnet4 at width 1, 90,000 iterations, bf16-mixed"
    assert [departures(run, protocol["settings"]) for run in RUNS] == ["", "", "momentum 0.5"]
    turned = shared_protocol(RUNS, [], ("momentum", "init"))  # an axis is not a shared setting
    assert departures(RUNS[2], turned["settings"]) == ""
    assert "momentum (an axis of the table)" in turned["shown"]["schedule"]


def test_the_header_names_augmentations_beyond_the_paper() -> None:
    assert shared_protocol(RUNS, [], AXES)["shown"]["preprocessing"] == "gcn-mean-image, times 0.7"
    runs = [replace(run, zoom=0.2, cutout=8, test_mirror=True) for run in RUNS]
    assert shared_protocol(runs, [], AXES)["shown"]["preprocessing"].endswith(
        "times 0.7; with zoom 0.2, cutout 8, test mirror on"
    )


def test_the_header_names_another_optimiser() -> None:
    runs = [replace(run, optimizer="adam") for run in RUNS]
    assert " images by Adam; learning rate 0.01" in shared_protocol(runs, [], AXES)["shown"]["schedule"]
    assert " images; learning rate 0.01" in shared_protocol(runs, [], ("init", "optimizer"))["shown"]["schedule"]
    runs = [replace(run, square_decay=0.99) for run in runs]
    assert " by Adam with square decay 0.99; learning" in shared_protocol(runs, [], AXES)["shown"]["schedule"]
    assert " images; learning rate 0.01" in shared_protocol(RUNS, [], AXES)["shown"]["schedule"]


def test_two_data_sets_are_refused_and_named() -> None:
    jpeg = make_result(RUNS[2], 80.0, data_label="cifar10-jpeg", fingerprint="ab" * 32)
    with pytest.raises(UsageError) as caught:
        shared_protocol(RUNS, [*(make_result(run, 90.0) for run in RUNS[:2]), jpeg], AXES)
    assert f"2 on CIFAR-10 ({'3f' * 32}) and 1 on cifar10-jpeg ({'ab' * 32})" in str(caught.value)


def test_tests_on_different_images_are_refused() -> None:
    held_out = make_result(replace(RUNS[2], validation=5000), 80.0, data_label="CIFAR-10 (5,000 validation images)")
    with pytest.raises(UsageError) as caught:
        shared_protocol(RUNS, [make_result(RUNS[0], 90.0), held_out], AXES)
    mark = "3f" * 32
    assert f"1 on CIFAR-10 ({mark}) and 1 on CIFAR-10 (5,000 validation images) ({mark})" in str(caught.value)


def test_a_table_of_validation_accuracies_says_so(small: Experiment, small_results: list[Result]) -> None:
    held_out = small.with_settings({"validation": 5000})
    found = [replace(result, run=replace(result.run, validation=5000)) for result in small_results]
    caveats = document(held_out, held_out.runs(), make_records(found))["summary"]["caveats"]
    assert "Accuracies are on 5,000 training images that were held out, not on the test images." in caveats


def test_a_run_that_failed_before_it_read_data_has_no_data_set() -> None:
    crashed = make_result(RUNS[0], None, "error", fingerprint="unknown", data_label="unknown")
    protocol = shared_protocol(RUNS, [crashed, make_result(RUNS[1], 90.0)], AXES)
    assert (protocol["data_label"], protocol["fingerprint"]) == ("CIFAR-10", "3f" * 32)
    assert shared_protocol(RUNS, [crashed], AXES)["data_label"] == "cifar10"


def test_caveats(small: Experiment, small_results: list[Result]) -> None:
    assert document(small, small.runs(), make_records([]))["summary"]["caveats"] == ["No run has finished yet."]
    narrow = small.with_settings({"seed": [0, 1], "width": 0.5})
    found = [replace(result, run=replace(result.run, width=0.5)) for result in small_results if result.run.seed < 2]
    crashed = [replace(found[0], status="error", error="boom", dirty=True), *found[1:]]
    assert document(narrow, narrow.runs(), make_records(crashed))["summary"]["caveats"] == [
        "2 of 6 runs have not finished, so the numbers may still change.",
        "No cell has more than 2 runs; published numbers are judged only with at least 3.",
        "1 run ended in an error; see “What is missing”.",
        "Not comparable with the paper: width 0.5 (paper: 1).",
        "The runs were made by 2 different versions of the code.",
        "Some runs were made by code that differs from the commit they name.",
    ]


def test_provenance() -> None:
    gpu, cpu = {"device": "cuda", "threads": 4}, {"device": "cpu", "threads": 2}
    early, late = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"
    found = provenance([
        make_result(Run("lsuv", "relu", 0), 90.0, seconds=3600.0, options=gpu, device="A", finished=late),
        make_result(Run("lsuv", "relu", 1), 90.0, seconds=1800.0, options={"device": "cuda"}, device="A", dirty=True),
        make_result(Run("lsuv", "relu", 2), None, seconds=1800.0, options=cpu, device="B", versions={"torch": "2.12"}),
    ])  # fmt: skip
    assert found["devices"] == [
        {"name": "A", "kind": "GPU", "runs": 2, "hours": 1.5},
        {"name": "B", "kind": "CPU", "runs": 1, "hours": 1.0},
    ]
    assert found["hours"] == {"GPU": 1.5, "CPU": 1.0}
    assert [(one["dirty"], one["runs"]) for one in found["code"]] == [(False, 2), (True, 1)]
    assert found["versions"] == {"torch": {"2.11": 2, "2.12": 1}}
    assert (found["first_finished"], found["last_finished"]) == (early, late)


@pytest.mark.parametrize(("dataset", "warned"), [("synthetic", True), ("cifar10", False), ("folder:a", False)])
def test_a_table_of_generated_images_says_that_its_numbers_mean_nothing(dataset: str, warned: bool) -> None:
    runs = (Run("lsuv", "relu", dataset=dataset),)
    warning = shared_protocol(runs, [], ("init", "activation"))["warning"]
    assert ("mean nothing" in warning) if warned else warning is None


@pytest.mark.parametrize(
    ("milestones", "axes", "text"),
    [
        ((40, 60), (), "learning rate 0.01, times 0.1 at 40 / 60; momentum 0.9;"),
        ((), (), "learning rate 0.01; momentum 0.9;"),
        ((), ("milestones",), "learning rate 0.01, times 0.1 at (an axis of the table); momentum 0.9;"),
    ],
)
def test_the_schedule_in_words(milestones: tuple[int, ...], axes: tuple[str, ...], text: str) -> None:
    runs = (Run("lsuv", "relu", iterations=90, milestones=milestones),)
    assert text in shared_protocol(runs, [], ("init", "activation", *axes))["shown"]["schedule"]


def test_the_number_of_runs_limits_only_published_numbers(small: Experiment) -> None:
    unpublished = replace(small, table=replace(small.table, reference=None))
    few = "published numbers are judged only with at least 3"
    for experiment, expected in ((small, True), (unpublished, False)):
        records = make_records(make_result(run, 90.0) for run in experiment.runs({"seed": 0}))
        caveats = document(experiment, experiment.runs({"seed": 0}), records)["summary"]["caveats"]
        assert any(few in caveat for caveat in caveats) is expected

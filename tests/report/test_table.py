import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import ROOT, make_records, make_result

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.table import axis_values, build, shared_protocol
from replicate.run import Run
from replicate.store.result import Result

OUT = Path("results/local/small")
AXES = ("init", "activation")
RUNS = (Run("lsuv", "relu"), Run("lsuv", "tanh"), Run("xavier", "relu", seed=1, momentum=0.5))


def test_claims_are_judged_on_whole_sets_of_cells(small: Experiment, small_results: list[Result]) -> None:
    def reasons(runs: tuple[Run, ...]) -> dict[str, str]:
        table = build(small, runs, make_records(result for result in small_results if result.run in runs), OUT)
        return {judgement.claim.id: judgement.reason for judgement in table.judgements}

    assert reasons(small.runs())["lsuv-best-maxout"] == "no rival in this experiment"
    assert "n < 3" in reasons(small.runs())["lsuv-best-relu"]
    assert reasons(small.runs({"init": "lsuv"}))["lsuv-best-relu"] == "not all of its cells are in this table"


def test_nothing_finished_names_the_folder_and_the_command(small: Experiment) -> None:
    with pytest.raises(UsageError, match=r"results/local/small holds no finished run of small; .*`replicate matrix"):
        build(small, small.runs(), make_records([]), OUT)
    with pytest.raises(UsageError, match=r"no finished run of small \(1 ended in an error\)"):
        build(small, small.runs(), make_records([make_result(small.runs()[0], None, "error")]), OUT)


@pytest.mark.parametrize(
    ("name", "note"),
    [("table3", "here it is trained uniformly"), ("table3-as-released", "Trained with momentum 0.5")],
)
def test_the_released_recipes_are_footnotes(name: str, note: str) -> None:
    experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
    runs = experiment.runs({"seed": 0})
    table = build(experiment, runs, make_records(make_result(run, 90.0) for run in runs), OUT)
    notes = {key: entry.notes for key, entry in table.entries.items() if entry.notes}
    assert list(notes) == [("xavier", "maxout"), ("msra", "maxout")]
    assert note in " ".join(notes["xavier", "maxout"])


def test_axes_keep_the_order_of_the_grid(small: Experiment) -> None:
    turned = replace(small, grid={**small.grid, "init": ("orthonormal_msra", "lsuv")})
    assert axis_values(turned, turned.runs(), "init") == ("orthonormal_msra", "lsuv")
    assert axis_values(turned, turned.runs({"activation": "relu"}), "activation") == ("relu",)
    assert axis_values(turned, turned.runs(), "width") == (1.0,)


def test_the_header_names_what_most_runs_share() -> None:
    protocol = shared_protocol(RUNS, [make_result(run, 90.0) for run in RUNS], AXES)
    assert protocol.texts()["summary"] == "CIFAR-10, fitnet4 at width 1, 90,000 iterations, bf16-mixed"
    assert [protocol.departures(run) for run in RUNS] == ["", "", "momentum 0.5"]
    turned = shared_protocol(RUNS, [], ("momentum", "init"))  # an axis is not a shared setting
    assert turned.departures(RUNS[2]) == ""
    assert "momentum (an axis of the table)" in turned.texts()["schedule"]


def test_two_data_sets_are_refused_and_named() -> None:
    jpeg = make_result(RUNS[2], 80.0, data_label="cifar10-jpeg", fingerprint="ab" * 32)
    with pytest.raises(UsageError) as caught:
        shared_protocol(RUNS, [*(make_result(run, 90.0) for run in RUNS[:2]), jpeg], AXES)
    assert f"2 on CIFAR-10 ({'3f' * 32}) and 1 on cifar10-jpeg ({'ab' * 32})" in str(caught.value)


def test_a_run_that_failed_before_it_read_data_has_no_data_set() -> None:
    crashed = make_result(RUNS[0], None, "error", fingerprint="unknown", data_label="unknown")
    protocol = shared_protocol(RUNS, [crashed, make_result(RUNS[1], 90.0)], AXES)
    assert (protocol.data_label, protocol.fingerprint) == ("CIFAR-10", "3f" * 32)
    assert shared_protocol(RUNS, [crashed], AXES).data_label == "cifar10"


def test_the_table_needs_no_slow_library() -> None:
    code = "import sys, replicate.report.render; print({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "set()"

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.table import Table, axis_values, build
from replicate.store.result import Result
from replicate.store.run_folder import Records

ROOT = Path(__file__).parents[2]
OUT = Path("results/local/small")
MakeRecords = Callable[..., Records]


@pytest.fixture
def table(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> Table:
    return build(small, small.runs(), make_records(small_results, others=2), OUT)


def test_cells_published_numbers_and_verdicts(table: Table) -> None:
    assert [cell.accuracies for cell in table.cells] == [(93.8, 94.0, 94.2), (92.1, 92.3), ()]
    words = {place: (entry.published, entry.verdict.word) for place, entry in table.entries.items()}
    assert words == {
        ("lsuv", "maxout"): (93.94, "consistent"),
        ("lsuv", "relu"): (92.11, "not judged"),
        ("orthonormal_msra", "maxout"): (None, ""),
        ("orthonormal_msra", "relu"): (91.93, "not judged"),
    }
    assert (len(table.missing), table.others) == (2, 2)
    assert table.order == ("lsuv", "orthonormal_msra")


def test_a_claim_is_judged_on_the_cells_that_are_there(table: Table) -> None:
    reasons = {judgement.claim.id: judgement.reason for judgement in table.judgements}
    assert reasons["lsuv-best-maxout"] == "no rival in this experiment"
    assert "n < 3" in reasons["lsuv-best-relu"]


def test_a_claim_is_not_judged_on_a_part_of_its_cells(
    small: Experiment, small_results: list[Result], make_records: MakeRecords
) -> None:
    runs = small.runs({"init": "lsuv"})
    records = make_records(result for result in small_results if result.run in runs)
    table = build(small, runs, records, OUT)
    reasons = {said.claim.id: said.reason for said in table.judgements}
    assert reasons["lsuv-best-relu"] == "not all of its cells are in this table"


def test_nothing_finished_names_the_folder_and_the_command(
    small: Experiment, make_result: Callable[..., Result], make_records: MakeRecords
) -> None:
    with pytest.raises(UsageError, match=r"results/local/small holds no finished run of small; .*`replicate matrix"):
        build(small, small.runs(), make_records([]), OUT)
    crashed = make_result(small.runs()[0], None, "error")
    with pytest.raises(UsageError, match=r"no finished run of small \(1 ended in an error\)"):
        build(small, small.runs(), make_records([crashed]), OUT)


def test_two_data_sets_make_no_table(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    mixed = [replace(small_results[0], fingerprint="ab" * 32), *small_results[1:]]
    with pytest.raises(UsageError, match=r"abab.*3f3f"):
        build(small, small.runs(), make_records(mixed), OUT)


def test_the_released_recipes_are_footnotes(make_result: Callable[..., Result], make_records: MakeRecords) -> None:
    for name, note in (
        ("table3", "here it is trained uniformly"),
        ("table3-as-released", "Trained with momentum 0.5"),
    ):
        experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
        runs = experiment.runs({"seed": 0})
        table = build(experiment, runs, make_records(make_result(run, 90.0) for run in runs), OUT)
        notes = {place: entry.notes for place, entry in table.entries.items() if entry.notes}
        assert list(notes) == [("xavier", "maxout"), ("msra", "maxout")]
        assert note in " ".join(notes["xavier", "maxout"])


def test_axes_keep_the_order_of_the_grid(small: Experiment) -> None:
    turned = replace(small, grid={**small.grid, "init": ("orthonormal_msra", "lsuv")})
    assert axis_values(turned, turned.runs(), "init") == ("orthonormal_msra", "lsuv")
    assert axis_values(turned, turned.runs(), "activation") == ("maxout", "relu")
    assert axis_values(turned, turned.runs({"activation": "relu"}), "activation") == ("relu",)
    assert axis_values(turned, turned.runs(), "width") == (1.0,)


def test_the_table_needs_no_slow_library() -> None:
    code = "import sys, replicate.report.render; print({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "set()"

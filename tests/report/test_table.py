import csv
import io
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


def grid(text: str, heading: str = "") -> list[list[str]]:
    """The entries of the first Markdown table below a heading."""
    lines = iter(text.partition(heading)[2].splitlines() if heading else text.splitlines())
    found: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            found.append([entry.strip() for entry in line.strip("|").split(" | ")])
        elif found:
            break
    return [found[0], *found[2:]]


def test_the_grid_stands_above_the_papers_numbers(table: Table) -> None:
    assert grid(table.markdown()) == [
        ["", "maxout", "ReLU"],
        ["**LSUV**", "94.0 ± 0.2 (n=3)", "92.2 ± 0.1 (n=2, 1 n/c)"],
        ["paper", "93.94 (consistent)", "92.11 (n = 2 < 3)"],
        ["**OrthoNorm-MSRA scaled**", "–", "n/c (1/1) … 1/3"],
        ["paper", "–", "91.93 (n = 1 < 3)"],
    ]


def test_the_header_names_data_schedule_and_precision(table: Table) -> None:
    text = table.markdown()
    assert text.startswith("# small: test accuracy in %\n")
    assert "- Data set: CIFAR-10 (`cifar10`, fingerprint `3f3f3f3f3f3f3f3f`)\n" in text
    assert (
        "- Schedule: 90,000 iterations of 128 images; learning rate 0.01, times 0.1 at 40,000 / 60,000 / 80,000" in text
    )
    assert "- Precision: bf16-mixed\n" in text
    assert "- Code: commit 0123456789ab\n" in text


def test_the_legend_says_what_the_verdicts_rest_on(table: Table) -> None:
    # variances 0.04 with 2 and 0.02 with 1 degrees of freedom: √(0.1 / 3) = 0.18
    assert "pooled standard deviation: 0.18 with 3 degrees of freedom" in table.markdown()
    assert "expects 0.1 of the numbers outside" in table.markdown()
    assert "± is the standard deviation" in table.markdown()


def test_the_list_of_cells(table: Table) -> None:
    head, *cells = grid(table.markdown(), "## Cells")
    first = dict(zip(head, cells[0], strict=True))
    # t table: 4.302653 · 0.2 / √3 = 0.4968; prediction: 3.182446 · √(0.1 / 3) · √(4/3) = 0.6709
    assert first == {
        "cell": "LSUV × maxout",
        "finished": "3/3",
        "converged": "3",
        "mean": "94.00",
        "SD": "0.20",
        "95 % interval": "93.50 to 94.50",
        "paper": "93.94",
        "ours − paper": "+0.06",
        "± prediction": "0.67",
        "verdict": "consistent",
    }
    assert [cell[0] for cell in cells] == ["LSUV × maxout", "LSUV × ReLU", "OrthoNorm-MSRA scaled × ReLU"]
    assert cells[1][7:] == ["+0.09", "0.71", "not judged: n = 2 < 3"]


def test_the_claims(table: Table) -> None:
    claims = {row[0]: row[1:] for row in grid(table.markdown(), "## Claims of the paper")[1:]}
    assert claims["Sigmoid never converges, whatever the initialisation"][0] == "**undecided**"
    assert claims["Sigmoid never converges, whatever the initialisation"][3] == "not in this experiment"
    assert claims["LSUV is the best initialisation for maxout"][3] == "no rival in this experiment"
    assert "n < 3" in claims["LSUV is the best initialisation for ReLU"][3]


def test_a_claim_is_not_judged_on_a_part_of_its_cells(
    small: Experiment, small_results: list[Result], make_records: MakeRecords
) -> None:
    runs = small.runs({"init": "lsuv"})
    records = make_records(result for result in small_results if result.run in runs)
    table = build(small, runs, records, OUT)
    reasons = {said.claim.id: said.reason for said in table.judgements}
    assert reasons["lsuv-best-relu"] == "not all of its cells are in this table"


def test_runs_are_counted(table: Table) -> None:
    text = table.markdown()
    assert "7 of 9 runs have finished: 5 converged, 2 did not (1 of them met a non-finite loss)." in text
    assert "2 runs have no readable record, 0 ended in an error." in text
    assert "2 other records lie in the output folder" in text


def test_errors_and_unreadable_records_are_named(
    small: Experiment, small_results: list[Result], make_result: Callable[..., Result], make_records: MakeRecords
) -> None:
    *_, last = small.runs()
    crashed = make_result(last, None, "error", fingerprint="unknown", error="Traceback:\n  here\nOSError: no | room\n")
    records = make_records([*small_results, crashed], bad={OUT / "x": "x/result.json: not a whole result"})
    table = build(small, small.runs(), records, OUT)
    assert f"- Error: `{last.run_id}`: OSError: no | room\n" in table.markdown()
    assert "- Unreadable: x/result.json: not a whole result" in table.markdown()
    assert "n/c (1/1, 1 error) … 1/3" in table.markdown()
    (row,) = [row for row in csv.DictReader(io.StringIO(table.runs_csv())) if row["status"] == "error"]
    assert (row["error"], row["test_accuracy"]) == ("OSError: no | room", "")


def test_csv_holds_every_number(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert [(row["init"], row["activation"]) for row in rows] == [
        ("lsuv", "maxout"),
        ("lsuv", "relu"),
        ("orthonormal_msra", "maxout"),
        ("orthonormal_msra", "relu"),
    ]
    first = rows[0]
    assert float(first["mean"]) == pytest.approx(94)
    assert float(first["sd"]) == pytest.approx(0.2)
    assert float(first["interval_low"]) == pytest.approx(94 - 4.302653 * 0.2 / 3**0.5)
    assert float(first["prediction_half_width"]) == pytest.approx(3.182446 * (0.1 / 3) ** 0.5 * (4 / 3) ** 0.5)
    assert (first["accuracies"], first["seeds"]) == ("93.8 94 94.2", "0 1 2")
    assert (first["published"], first["verdict"], first["nc"]) == ("93.94", "consistent", "False")
    assert (first["data_label"], first["fingerprint"]) == ("CIFAR-10", "3f" * 32)
    assert (rows[2]["expected"], rows[2]["mean"], rows[2]["published"]) == ("0", "", "")
    assert (rows[3]["nc"], rows[3]["diverged"], rows[3]["missing"], rows[3]["reason"]) == (
        "True",
        "1",
        "2",
        "n = 1 < 3",
    )


def test_runs_csv_holds_every_record(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(table.runs_csv())))
    assert [row["run_id"] for row in rows] == [result.run.run_id for result in table.results]
    assert rows[0]["milestones"] == "40000 60000 80000"
    assert rows[0]["clip_norm"] == ""
    assert (rows[0]["test_accuracy"], rows[0]["weight_decay"], rows[0]["dirty"]) == ("93.8", "0.0005", "False")


def test_write(table: Table, tmp_path: Path) -> None:
    paths = table.write(tmp_path / "new")
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.csv", "runs.csv", "table.json"]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    assert texts == [table.markdown(), table.latex(), table.csv(), table.runs_csv(), table.json()]


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


def test_without_published_numbers(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    plain = replace(small, table=replace(small.table, reference=None, claims=None))
    text = build(plain, plain.runs(), make_records(small_results), OUT).markdown()
    assert "paper" not in grid(text)[2][0]
    assert "## Claims" not in text
    assert "prediction interval" not in text


def test_another_protocol_is_said_once(
    small: Experiment, make_result: Callable[..., Result], make_records: MakeRecords
) -> None:
    narrow = small.with_settings({"width": 0.5})
    table = build(narrow, narrow.runs(), make_records(make_result(run, 90.0) for run in narrow.runs()), OUT)
    assert grid(table.markdown())[2] == ["paper", "93.94 (not comparable)", "92.11 (not comparable)"]
    assert table.markdown().count("Not comparable with the paper: width 0.5 (paper: 1).") == 1
    assert table.footnotes == ()
    assert "expects" not in table.markdown()


def test_the_released_recipes_are_footnotes(make_result: Callable[..., Result], make_records: MakeRecords) -> None:
    marks = {}
    for name in ("table3", "table3-as-released"):
        experiment = Experiment.load(ROOT / "experiments" / f"{name}.yaml")
        runs = experiment.runs({"seed": 0})
        table = build(experiment, runs, make_records(make_result(run, 90.0) for run in runs), OUT)
        marks[name] = {place: entry.notes for place, entry in table.entries.items() if entry.notes}
        assert len(table.footnotes) == 2
        assert "90.0 (n=1) [a]" in table.markdown()
        assert ("Trained with momentum 0.5" in table.markdown()) == (name == "table3-as-released")
        assert ("here it is trained uniformly" in table.markdown()) == (name == "table3")
    assert marks["table3"] == marks["table3-as-released"] == {("xavier", "maxout"): (0,), ("msra", "maxout"): (1,)}


def test_axes_keep_the_order_of_the_grid(small: Experiment) -> None:
    turned = replace(small, grid={**small.grid, "init": ("orthonormal_msra", "lsuv")})
    assert axis_values(turned, turned.runs(), "init") == ("orthonormal_msra", "lsuv")
    assert axis_values(turned, turned.runs(), "activation") == ("maxout", "relu")
    assert axis_values(turned, turned.runs({"activation": "relu"}), "activation") == ("relu",)
    assert axis_values(turned, turned.runs(), "width") == (1.0,)


def test_the_table_needs_no_slow_library() -> None:
    code = "import sys, replicate.report.table; print({'torch', 'pandas', 'matplotlib'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "set()"

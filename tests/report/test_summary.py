from collections.abc import Callable
from dataclasses import replace

from replicate.experiment import Experiment
from replicate.report.summary import summary
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

MakeRecords = Callable[..., Records]


def test_what_was_found(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    said = summary(assemble(small, small.runs(), make_records(small_results)))
    assert (said["finished"], said["expected"], said["errors"]) == (7, 9, 0)
    assert list(said["published"].items()) == [("consistent", 1), ("not judged", 2)]
    assert sum(said["claims"].values()) == 7
    assert said["caveats"] == ["2 of 9 runs have not finished, so the numbers may still change."]


def test_nothing_finished(small: Experiment, make_records: MakeRecords) -> None:
    said = summary(assemble(small, small.runs(), make_records([])))
    assert (said["finished"], said["expected"]) == (0, 9)
    assert said["caveats"] == ["No run has finished yet."]


def test_one_seed_and_two(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    def caveats(seeds: int) -> str:
        asked = small.with_settings({"seed": list(range(seeds))})
        found = [result for result in small_results if result.run.seed < seeds]
        return " ".join(summary(assemble(asked, asked.runs(), make_records(found)))["caveats"])

    assert "No cell has more than 1 run; published numbers are judged only with at least 3." in caveats(1)
    assert "No cell has more than 2 runs; published numbers are judged only with at least 3." in caveats(2)


def test_errors_other_protocols_and_changed_code(
    small: Experiment, small_results: list[Result], make_records: MakeRecords
) -> None:
    made = [replace(small_results[0], status="error", error="boom", dirty=True), *small_results[1:]]
    text = " ".join(summary(assemble(small, small.runs(), make_records(made)))["caveats"])
    assert "1 run ended in an error; see “What is missing”." in text
    assert "The runs were made by 2 different versions of the code." in text
    assert "Some runs were made by code that differs from the commit they name." in text
    short = small.with_settings({"iterations": 90, "milestones": [40]})
    made = [replace(result, run=run) for result, run in zip(small_results, short.runs(), strict=False)]
    text = " ".join(summary(assemble(short, short.runs(), make_records(made)))["caveats"])
    assert "Not comparable with the paper: iterations 90 (paper: 90,000)" in text

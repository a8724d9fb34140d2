from collections.abc import Callable
from dataclasses import replace

from replicate.experiment import Experiment
from replicate.report.summary import summarise
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records

MakeRecords = Callable[..., Records]


def test_what_was_found(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    said = summarise(assemble(small, small.runs(), make_records(small_results)))
    assert (said.finished, said.expected, said.errors) == (7, 9, 0)
    assert list(said.published.items()) == [("consistent", 1), ("not judged", 2)]
    assert sum(said.claims.values()) == 7
    assert said.cautions == ("2 of 9 runs have not finished; the numbers may still move.",)


def test_nothing_finished(small: Experiment, make_records: MakeRecords) -> None:
    said = summarise(assemble(small, small.runs(), make_records([])))
    assert (said.finished, said.expected) == (0, 9)
    assert said.cautions == ("No run has finished yet, so there is nothing to show but what is to do.",)


def test_one_seed_and_two(small: Experiment, small_results: list[Result], make_records: MakeRecords) -> None:
    def cautions(seeds: int) -> str:
        asked = small.with_settings({"seed": list(range(seeds))})
        found = [result for result in small_results if result.run.seed < seeds]
        return " ".join(summarise(assemble(asked, asked.runs(), make_records(found))).cautions)

    assert "No cell has more than one run: no spread is known, and no number is judged below 3 runs." in cautions(1)
    assert "No cell has more than 2 runs, and no number is judged below 3." in cautions(2)


def test_errors_other_protocols_and_changed_code(
    small: Experiment, small_results: list[Result], make_records: MakeRecords
) -> None:
    made = [replace(small_results[0], status="error", error="boom", dirty=True), *small_results[1:]]
    text = " ".join(summarise(assemble(small, small.runs(), make_records(made))).cautions)
    assert "1 run ended in an error; see what is missing." in text
    assert "The runs were made by 2 different states of the code." in text
    assert "Some runs were made by code that differs from the commit they name." in text
    short = small.with_settings({"iterations": 90, "milestones": [40]})
    made = [replace(result, run=run) for result, run in zip(small_results, short.runs(), strict=False)]
    text = " ".join(summarise(assemble(short, short.runs(), make_records(made))).cautions)
    assert "Not comparable with the paper: iterations 90 (paper: 90,000)" in text

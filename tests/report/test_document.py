import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.experiment import Experiment
from replicate.report.cell import Cell
from replicate.report.document import cell_texts, document, strict_json
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records


@pytest.fixture
def table(small: Experiment, small_results: list[Result], make_records: Callable[..., Records]) -> Table:
    odd = [{"layer": "conv1", "piece": 0, "variance": None}]
    made = [replace(small_results[0], init=odd), *small_results[1:]]
    bad = {Path("/home/me/out/runs/x/result.json"): "not a whole result"}
    return assemble(small, small.runs(), make_records(made, others=2, bad=bad))


def refuse(name: str) -> None:
    raise ValueError(name)


def test_it_reads_back_as_strict_json_with_null_for_what_is_not_finite(table: Table) -> None:
    read = json.loads(strict_json(document(table)), parse_constant=refuse)
    assert read["runs"][0]["init"][0]["variance"] is None
    assert read["runs"][0]["run_id"] == table.results[0].run.run_id
    assert len(read["runs"]) == 7
    assert "/home/me" not in strict_json(document(table))
    assert read["unreadable"] == [{"file": "x/result.json", "reason": "not a whole result"}]
    assert (len(read["missing"]), read["others"]) == (2, 2)


def test_cells_claims_and_provenance(table: Table) -> None:
    read = document(table)
    assert read["schema"] == 1
    assert read["axes"] == ["init", "activation"]
    assert read["rows"][1] == {"value": "orthonormal_msra", "title": "OrthoNorm-MSRA scaled"}
    first, relu, dash, failed = read["cells"]
    assert [first[key] for key in ("row", "column", "mean", "published")] == ["lsuv", "maxout", 94.0, 93.94]
    # t of 2 degrees of freedom 4.303, standard deviation 0.2, three runs
    assert first["interval"] == pytest.approx([94 - 4.3027 * 0.2 / 3**0.5, 94 + 4.3027 * 0.2 / 3**0.5], abs=1e-4)
    assert (first["verdict"]["word"], first["settings"]["iterations"]) == ("consistent", 90_000)
    assert "seed" not in first["settings"]
    assert (relu["converged"], relu["not_converged"], relu["seeds"]) == (2, 1, [0, 1])
    assert [dash[key] for key in ("expected", "mean", "nc", "settings")] == [0, None, None, None]
    # variances 0.04 with 2 and 0.02 with 1 degrees of freedom
    assert read["pooled"] == {"sd": pytest.approx((0.1 / 3) ** 0.5), "df": 3}
    assert first["verdict"]["half_width"] == pytest.approx(3.182446 * (0.1 / 3) ** 0.5 * (4 / 3) ** 0.5)
    assert first["run_ids"] == [run["run_id"] for run in read["runs"] if run["run_id"].startswith("lsuv-maxout")]
    assert (failed["nc"], failed["mean"], failed["diverged"], failed["missing"]) == (True, None, 1, 2)
    assert {claim["id"] for claim in read["claims"]} >= {"lsuv-best-maxout", "lsuv-order"}
    assert read["provenance"]["devices"] == [
        {"name": "cpu", "kind": "CPU", "runs": 7, "hours": pytest.approx(7 * 12.5 / 3600)}
    ]


def test_json_reads_back_as_the_document(table: Table) -> None:
    doc = document(table)
    assert json.loads(strict_json(doc)) == doc


@pytest.mark.parametrize(
    ("accuracies", "counts", "text"),
    [
        ((93.7, 93.8, 94.0, 94.1), {"not_converged": 1}, "93.9 ± 0.2 | n=4, 1 n/c |"),
        ((93.9,), {"expected": 1}, "93.9 | n=1 |"),
        ((), {"not_converged": 3, "diverged": 2}, "n/c | 5/5 |"),
        ((), {}, "… 0/5 | |"),
        ((93.7, 94.1), {}, "93.9 ± 0.3 | n=2 | … 2/5"),
        ((), {"errors": 5}, "… 0/5 | 5 errors |"),
        ((93.7, 94.1), {"errors": 1, "diverged": 2}, "93.9 ± 0.3 | n=2, 2 n/c, 1 error | … 4/5"),
        ((), {"diverged": 3, "errors": 2}, "n/c | 3/3, 2 errors | … 3/5"),
    ],
)
def test_a_cell_as_text(
    make_cell: Callable[..., Cell], accuracies: tuple[float, ...], counts: dict[str, int], text: str
) -> None:
    shown = cell_texts(make_cell("lsuv", "relu", accuracies, **counts))
    assert [shown[key] for key in ("number", "counts", "progress")] == [part.strip() for part in text.split("|")]


def test_a_cell_that_the_experiment_leaves_out_is_a_dash() -> None:
    assert cell_texts(None)["number"] == "–"


def test_a_table_of_nothing_is_a_document_too(small: Experiment, make_records: Callable[..., Records]) -> None:
    read = json.loads(strict_json(document(assemble(small, small.runs(), make_records([])))))
    assert read["runs"] == []
    assert read["pooled"] is None
    assert read["provenance"]["first_finished"] is None
    assert [cell["expected"] for cell in read["cells"]] == [3, 3, 0, 3]


NUMBERS = st.floats() | st.integers() | st.none() | st.text() | st.booleans()


@given(st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_any_value_is_strict_json(value: object) -> None:
    def expected(item: object) -> object:
        if isinstance(item, dict):
            return {key: expected(inner) for key, inner in item.items()}
        if isinstance(item, list):
            return [expected(inner) for inner in item]
        return None if isinstance(item, float) and not math.isfinite(item) else item

    assert json.loads(strict_json(value), parse_constant=refuse) == expected(value)

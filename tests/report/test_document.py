import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.experiment import Experiment
from replicate.report.document import document, strict_json, unreadable
from replicate.report.table import Table, assemble
from replicate.store.result import Result
from replicate.store.run_folder import Records


@pytest.fixture
def table(small: Experiment, small_results: list[Result], make_records: Callable[..., Records]) -> Table:
    odd = [{"layer": "conv1", "piece": 0, "variance": None}]
    made = [replace(small_results[0], init=odd), *small_results[1:]]
    bad = {Path("/home/me/out/runs/x/result.json"): "/home/me/out/runs/x/result.json: not a whole result"}
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
    assert (first["row"], first["column"], first["mean"], first["published"]) == ("lsuv", "maxout", 94.0, 93.94)
    # t of 2 degrees of freedom 4.303, standard deviation 0.2, three runs
    assert first["interval"] == pytest.approx([94 - 4.3027 * 0.2 / 3**0.5, 94 + 4.3027 * 0.2 / 3**0.5], abs=1e-4)
    assert (first["verdict"]["word"], first["settings"]["iterations"]) == ("consistent", 90_000)
    assert "seed" not in first["settings"]
    assert (relu["converged"], relu["not_converged"], relu["seeds"]) == (2, 1, (0, 1))
    assert dash == {"row": "orthonormal_msra", "column": "maxout", "published": None, "expected": 0}
    assert (failed["nc"], failed["mean"], failed["diverged"], failed["missing"]) == (True, None, 1, 2)
    assert {claim["id"] for claim in read["claims"]} >= {"lsuv-best-maxout", "lsuv-order"}
    assert read["provenance"]["devices"] == [
        {"name": "cpu", "kind": "CPU", "runs": 7, "hours": pytest.approx(7 * 12.5 / 3600)}
    ]


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


def test_other_reasons_stand_as_they_are() -> None:
    assert unreadable({Path("a/b/layers.json"): "denied"}) == [("b/layers.json", "denied")]

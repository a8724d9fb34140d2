"""layers.json: what is written reads back, and anything else is refused by name."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from workers import record

from replicate.options import Options
from replicate.run import Run
from replicate.store.layers import Layer, Snapshot, from_plain, parse_layers, to_json, to_plain
from replicate.store.result import BadRecordError
from replicate.store.run_folder import RunFolder

FIRST = Snapshot(0, (Layer("conv1", 0, None, 0.5, (3.0, None, 1.0)), Layer("conv1", 1, 1.0, None, ())))
LAST = Snapshot(90_000, (Layer("conv1", 0, 2.0, 0.25, (2.0, 1.0)),))


def layer(**changes: Any) -> dict[str, Any]:
    return {"name": "conv1", "piece": 0, "variance": 1.0, "gradient_norm": 0.5, "singular_values": [2, 1], **changes}


def test_what_is_written_reads_back() -> None:
    text = to_json("a-run", "f" * 64, (FIRST, LAST))
    assert parse_layers(text.encode(), "a-run", "f" * 64) == (FIRST, LAST)
    assert json.loads(text)["moments"][1]["layers"] == [
        {"name": "conv1", "piece": 0, "variance": 2.0, "gradient_norm": 0.25, "singular_values": [2.0, 1.0]}
    ]
    assert from_plain(to_plain((FIRST, LAST))) == (FIRST, LAST)
    assert from_plain([]) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema is 2, not 1"),
        ({"run_id": "x"}, "run_id is 'x', not 'a-run' as in the record"),
        ({"fingerprint": "ab"}, "fingerprint is 'ab'"),
        ({"moments": {}}, "moments must be a list"),
        ({"moments": [{"iteration": 0, "layers": [layer(variance=-1)]}]}, "variance = -1 is out of range"),
        ({"moments": [{"iteration": 0, "layers": [layer(variance=math.inf)]}]}, "variance must be a finite number"),
        ({"moments": [{"iteration": 0, "layers": [layer(gradient_norm=True)]}]}, "gradient_norm must be a number"),
        ({"moments": [{"iteration": 0, "layers": [layer(singular_values=["1"])]}]}, "values.0 must be a number"),
        ({"moments": [{"iteration": 0, "layers": [layer(name=1)]}]}, "name must be text, not 1"),
        ({"moments": [{"iteration": 0, "layers": [{"name": "a", "piece": 0}]}]}, "variance is missing"),
        ({"moments": [{"iteration": -1, "layers": []}]}, "iteration = -1 is out of range"),
        ({"moments": [{"iteration": 5, "layers": []}] * 2}, "do not ascend"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], message: str) -> None:
    content = {"schema": 1, "run_id": "a-run", "fingerprint": "f", "moments": [], **changes}
    with pytest.raises(BadRecordError) as caught:
        parse_layers(json.dumps(content).encode(), "a-run", "f")
    assert message in str(caught.value)


def test_a_file_is_read_for_the_run_and_the_data_of_its_record(tmp_path: Path) -> None:
    result = record(Run("lsuv", "relu"), Options(tmp_path))
    folder = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError):
        folder.snapshots(result)
    (tmp_path / "layers.json").write_text(to_json(result.run.run_id, result.fingerprint, (FIRST,)))
    assert folder.snapshots(result) == (FIRST,)
    for torn in ("", "[" * 100_000, "[]"):
        (tmp_path / "layers.json").write_text(torn)
        with pytest.raises(BadRecordError, match=r"layers\.json: "):
            folder.snapshots(result)

"""The faults of experiments/chaos.py; CI runs it."""

import random
from pathlib import Path

import pytest
from chaos_files import DAMAGES, content_of
from chaos_round import Round

from replicate.run import Run


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_is_another_one(tmp_path: Path, kind: str) -> None:
    path, rng, whole = tmp_path / "file", random.Random(0), bytes(range(256))
    path.write_bytes(whole)
    assert DAMAGES[kind](path, rng)
    content = content_of(path)
    assert content != whole
    if kind == "flip":
        wrong = [one ^ other for one, other in zip(content, whole, strict=True) if one != other]
        assert [number.bit_count() for number in wrong] == [1]
    path.unlink()
    path.with_name("other").touch()
    for gone in (path, path.with_name("other")):  # nothing to overwrite or flip
        assert DAMAGES[kind](gone, rng) == (kind == "pipe")


def test_a_complete_curve_is_not_damaged(tmp_path: Path) -> None:
    # Between its last row and its record, nothing would write the curve again, so the run would differ.
    run = Run("msra", "relu")
    one = Round(tmp_path, [], {run: [b"first,last", b"{}"]}, random.Random(0))
    curve = one.out / "runs" / run.run_id / "curve.csv"
    curve.parent.mkdir(parents=True)
    curve.write_bytes(b"first,last")
    assert not one.strike("damage_curve")
    assert curve.read_bytes() == b"first,last"
    curve.write_bytes(b"first")
    assert one.strike("damage_curve")
    assert curve.read_bytes() != b"first"

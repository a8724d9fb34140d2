"""The way through a verification, with records in the place of trainings; real ones are in tests/test_same_bits.py."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from workers import SYNTHETIC, put, record

from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect
from replicate.verify.rerun import CheckData, verify

RUNS = tuple(Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(4))


@pytest.fixture
def records(tmp_path: Path) -> Records:
    for run in RUNS:
        whole = replace(record(run, Options(tmp_path)), commit="c" * 40, dirty=False, weights_sha256="a" * 64)
        put(whole, tmp_path / "runs" / run.run_id)
        (tmp_path / "runs" / run.run_id / "curve.csv").write_text("iteration\n1\n")
    return collect(tmp_path, RUNS)


def rerun(records: Records, out: Path, count: int | None = 3, code: int = 0, **changes: object) -> tuple[int, str]:
    """Verify, each rerun yielding the record with these changes; return the exit code and what was shown."""
    shown = io.StringIO()

    def carry_out(runs: tuple[Run, ...], folder: Path, check: CheckData) -> int:
        check({"synthetic": SYNTHETIC})
        for run in runs:
            again: Result = replace(records.results[run.run_id], **changes)
            put(again, folder / "runs" / run.run_id)
            (folder / "runs" / run.run_id / "curve.csv").write_text("iteration\n1\n")
        return code

    return verify(records, out, count, 0, carry_out, Console(file=shown, width=120)), shown.getvalue()


def test_identical_reruns_leave_nothing_behind(records: Records, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, text = rerun(records, tmp_path)
    assert code == 0
    assert "3 runs verified: 3 identical" in text
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_difference_without_a_reason_ends_in_1_and_is_kept(records: Records, tmp_path: Path) -> None:
    code, text = rerun(records, tmp_path, count=None, weights_sha256="b" * 64)
    assert code == 1
    assert "4 runs verified: 4 different" in text
    assert "the result differs in: weights" in text
    assert "nothing recorded of the code and the machine says why" in text
    assert len(list((tmp_path / "verify" / "last").iterdir())) == 4
    assert not (tmp_path / "verify" / "runs").exists()
    assert collect(tmp_path, RUNS).results == records.results


def test_a_difference_with_a_reason_ends_in_0(records: Records, tmp_path: Path) -> None:
    changed = {"weights_sha256": "b" * 64, "device": "[red]another[/red]", "test_images": 500}
    code, text = rerun(records, tmp_path, count=1, **changed)
    assert code == 0
    assert "1 run verified: 1 within tolerance" in text
    assert "the bits may differ for: device: a test → [red]another[/red]" in text


def test_what_was_stopped_is_left_to_go_on_with(records: Records, tmp_path: Path) -> None:
    code, text = rerun(records, tmp_path, code=3)
    assert (code, text) == (3, "")
    assert len(list((tmp_path / "verify" / "runs").iterdir())) == 3


def test_a_rerun_without_a_record_differs(records: Records, tmp_path: Path) -> None:
    shown = io.StringIO()
    code = verify(records, tmp_path, 2, 0, lambda runs, folder, check: 1, Console(file=shown, width=120))
    assert code == 1
    assert "the rerun left no record" in shown.getvalue()

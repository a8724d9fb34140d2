"""Merging output folders: what is copied, what is kept, what is reported."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workers import put, record

from replicate.cli import main
from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.measurements import Predictions
from replicate.store.merge import merge
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder

ONE, TWO = Run("lsuv", "relu", 0), Run("lsuv", "relu", 1)
ERROR = {"status": "error", "test_accuracy": None, "error": "boom"}
FILES = {"curve.csv": "1,2\n", "layers.json": "{}", "predictions.npz": "predicted"}
COLLECT = Owner("cpu", 10)


def place(out: Path, run: Run, files: dict[str, str] = FILES, **changes: Any) -> RunFolder:
    """Write a run's folder."""
    folder = RunFolder.of(out, run)
    put(replace(record(run, Options(out)), **{"weights_sha256": "a" * 64, **changes}), folder.path)
    for name, text in files.items():
        (folder.path / name).write_text(text)
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_what_a_run_yielded_is_copied_bit_for_bit(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "new" / "out"
    one = place(a, ONE)
    place(b, TWO, {"curve.csv": "1\n"})
    expected = contents(a) | contents(b)
    # Other times, hosts and devices, and what an older record lacks, are no conflict; checkpoints and logs are left.
    elsewhere = {"seconds": 9.0, "finished": "later", "device": "another", "commit": "f" * 40, "weights_sha256": None}
    elsewhere["url"] = "https://example.org/1"
    place(b, ONE, {}, **elsewhere)
    one.log.write_text("said")
    runs = [ONE.run_id, TWO.run_id]
    for copied, present in ((runs, []), ([], runs)):
        report = merge([a, b], out)
        assert (report.copied, report.present, report.conflicts) == (copied, present, [])
        assert contents(out) == expected


def test_a_finished_record_replaces_an_error_and_never_the_other_way(tmp_path: Path) -> None:
    failed, done, out = tmp_path / "failed", tmp_path / "done", tmp_path / "out"
    place(failed, ONE, {"curve.csv": "half", "layers.json": "half"}, **ERROR)
    place(done, ONE, {"curve.csv": "1,2\n"})
    steps = [(len(merge([source], out).copied), contents(out)) for source in (failed, failed, done, failed)]
    # The files of the failed attempt do not pass for the finished run's.
    assert steps == [(1, contents(failed)), (0, contents(failed)), (1, contents(done)), (0, contents(done))]
    for number, order in enumerate(([failed, done], [done, failed])):
        merge(order, tmp_path / str(number))
        assert contents(tmp_path / str(number)) == contents(done)


def test_conflicts_are_named_and_the_rest_is_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    changes = {"status": "not_converged", "train_loss": 2.3, "fingerprint": "b" * 64, "weights_sha256": "b" * 64}
    one, other = place(a, ONE), place(b, ONE, {**FILES, "curve.csv": "1,3\n"}, **changes)
    place(b, TWO)
    assert main(["collect", str(a), str(b), "--out", str(out)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"conflict: {ONE.run_id}: {one.path} and {other.path} differ in {', '.join(changes)}, curve.csv",
        "1 run copied, 0 there already, 1 in conflict, 0 not readable, 0 in progress",
    ]
    assert not RunFolder.of(out, ONE).result.exists()
    merge([a], out)
    before = contents(out)
    assert len(merge([b], out).conflicts) == 1
    assert contents(out) == before


def test_copies_may_differ_in_probabilities_and_in_what_other_code_measures(tmp_path: Path) -> None:
    plain, more, other, out = (tmp_path / name for name in ("plain", "more", "other", "out"))
    predicted = Predictions(np.array([3, 1]), "a" * 64)
    contents = {
        plain: predicted,
        more: replace(predicted, probabilities=np.eye(4, dtype=np.float16)[[3, 1]]),
        other: replace(predicted, classes=np.array([3, 2])),
    }
    for folder, content in contents.items():
        measured = {"layers.json": "{}" if folder == plain else '{"dead": 0}'}
        sources = ("1" if folder == plain else "2") * 64
        run = place(folder, ONE, {"curve.csv": "1\n", **measured}, sources=sources)
        (run.path / "predictions.npz").write_bytes(content.to_npz())
    assert merge([plain, more], out).copied == [ONE.run_id]
    assert (RunFolder.of(out, ONE).path / "predictions.npz").read_bytes() == contents[more].to_npz()
    (conflict,) = merge([more, other], tmp_path / "conflict").conflicts
    assert conflict.endswith("differ in predictions.npz")
    place(other, TWO, {"layers.json": "{}"}, sources="2" * 64)
    place(more, TWO, {"layers.json": "{ }"}, sources="2" * 64)
    assert any(line.endswith("differ in layers.json") for line in merge([more, other], tmp_path / "two").conflicts)


def test_runs_in_progress_are_skipped(tmp_path: Path) -> None:
    a, out = tmp_path / "a", tmp_path / "out"
    there, finished, here = place(a, ONE, **ERROR), place(a, TWO), RunFolder.of(out, TWO)
    with acquire(there, COLLECT), acquire(here, COLLECT):
        report = merge([a], out)
        holder = f"process {os.getpid()} on {COLLECT.host}"
        assert report.in_progress == [f"{there.path} ({holder})", f"{here.path} ({holder})"]
        assert (report.copied, main(["collect", str(a), "--out", str(out)])) == ([], 0)
        assert "Runs in progress are skipped; run the command again to copy them." in report.lines()
    acquire(here, replace(COLLECT, start="1"))  # of a command that died: it is taken over
    with acquire(finished, COLLECT):  # the record is final, and the lease about to be released
        assert merge([a], out).copied == [ONE.run_id, TWO.run_id]
    assert not here.lease.exists()


def test_what_cannot_be_read_is_named_and_never_copied_or_replaced(tmp_path: Path) -> None:
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out"
    torn, link = place(a, ONE), place(a, TWO, {})
    torn.result.write_text("{")
    (tmp_path / "secret").write_text("secret")
    (link.path / "curve.csv").symlink_to(tmp_path / "secret")
    place(b, ONE)
    report = merge([a, b], out)
    assert report.copied == [ONE.run_id]
    first, second = report.unreadable
    assert first.startswith(f"{torn.result}: not a whole result")
    assert second == f"{link.path / 'curve.csv'}: it is not a plain file, or a link leads to it"
    assert main(["collect", str(b), "--out", str(a)]) == 1
    assert torn.result.read_text() == "{"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    place(tmp_path / "a", ONE)
    with pytest.raises(UsageError, match="b is no output folder: there is no "):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(UsageError, match="is the folder to collect into"):
        merge([tmp_path / "a"], tmp_path / "x" / ".." / "a")
    (tmp_path / "out" / "runs").mkdir(parents=True)
    RunFolder.of(tmp_path / "out", ONE).path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link, and nothing is written through one"):
        merge([tmp_path / "a"], tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()

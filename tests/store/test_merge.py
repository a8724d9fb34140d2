"""Merging output folders: what is copied, what stands, what is named."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workers import put, record

from replicate.cli import main
from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.lease import NAME, acquire
from replicate.store.merge import merge
from replicate.store.owner import Owner
from replicate.store.result import Result, read_result
from replicate.store.run_folder import RunFolder

ONE, TWO = Run("lsuv", "relu", 0), Run("lsuv", "relu", 1)


def place(out: Path, run: Run, curve: str | None = "1,2\n", layers: str | None = "{}", **changes: Any) -> Path:
    """Write a run's folder with some of what else lies in one."""
    folder = out / "runs" / run.run_id
    put(replace(record(run, Options(out)), **changes), folder)
    others = {"predictions.npz": "predicted", "log.txt": "said", "last.ckpt": "state"}
    for name, text in {"curve.csv": curve, "layers.json": layers, **others}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


def error(**changes: Any) -> dict[str, Any]:
    return {"status": "error", "test_accuracy": None, "error": "boom", **changes}


def at(out: Path, run: Run = ONE) -> Result:
    return read_result(out / "runs" / run.run_id / "result.json")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_record_curve_and_layers_are_copied_bit_for_bit_and_nothing_else(tmp_path: Path) -> None:
    sources = place(tmp_path / "a", ONE), place(tmp_path / "b", TWO, layers=None)
    gathered = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "new" / "all")
    assert (gathered.copied, gathered.exit_code) == ([ONE.run_id, TWO.run_id], 0)
    for source in sources:
        target = tmp_path / "new" / "all" / "runs" / source.name
        assert names(target) == [name for name in names(source) if name not in ("log.txt", "last.ckpt")]
        for path in target.iterdir():
            assert path.read_bytes() == (source / path.name).read_bytes()
    again = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "new" / "all")
    assert (again.copied, again.present, again.exit_code) == ([], [ONE.run_id, TWO.run_id], 0)


def test_a_finished_record_wins_over_errors_in_whichever_order(tmp_path: Path) -> None:
    place(tmp_path / "failed", ONE, curve="half", layers="half", **error())
    place(tmp_path / "done", ONE, layers=None)
    for number, order in enumerate((["failed", "done"], ["done", "failed"])):
        merge([tmp_path / name for name in order], tmp_path / f"out{number}")
        assert at(tmp_path / f"out{number}").status == "converged"
    merge([tmp_path / "failed"], tmp_path / "later")
    assert at(tmp_path / "later").status == "error"
    assert merge([tmp_path / "failed"], tmp_path / "later").present == [ONE.run_id]
    merge([tmp_path / "done"], tmp_path / "later")
    assert at(tmp_path / "later").status == "converged"
    # what the failed attempt had written does not pass for the finished run's
    assert names(tmp_path / "later" / "runs" / ONE.run_id) == ["curve.csv", "predictions.npz", "result.json"]
    merge([tmp_path / "failed"], tmp_path / "later")
    assert at(tmp_path / "later").status == "converged"


def test_other_times_hosts_and_devices_are_no_conflict(tmp_path: Path) -> None:
    place(tmp_path / "a", ONE)
    place(tmp_path / "b", ONE, seconds=9.0, finished="later", device="another", commit="f" * 40, images_per_second=2.0)
    gathered = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (gathered.copied, gathered.exit_code) == ([ONE.run_id], 0)
    assert at(tmp_path / "out") == at(tmp_path / "a")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"test_accuracy": 50.1}, "test_accuracy"),
        ({"status": "not_converged", "train_loss": 2.3}, "status, train_loss"),
        ({"fingerprint": "another"}, "fingerprint"),
        ({"weights_sha256": "b"}, "weights_sha256"),
        ({"curve": "1,3\n"}, "curve.csv"),
        ({"layers": "[]"}, "layers.json"),
    ],
)
def test_conflicts_are_named_and_the_rest_is_copied(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    a, b = (
        place(tmp_path / "a", ONE, weights_sha256="a"),
        place(tmp_path / "b", ONE, **{"weights_sha256": "a", **changes}),
    )
    place(tmp_path / "b", TWO)
    gathered = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert gathered.conflicts == [f"{ONE.run_id}: {a} and {b} differ in {named}"]
    assert (gathered.copied, gathered.exit_code) == ([TWO.run_id], 1)
    assert not (tmp_path / "out" / "runs" / ONE.run_id / "result.json").exists()
    # what stands in the output folder stands
    merge([tmp_path / "a"], tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert merge([tmp_path / "b"], tmp_path / "out").exit_code == 1
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_what_an_older_record_lacks_is_no_conflict(tmp_path: Path) -> None:
    place(tmp_path / "a", ONE, weights_sha256=None, classes=None)
    place(tmp_path / "b", ONE, weights_sha256="b", layers=None)
    assert merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out").copied == [ONE.run_id]


def test_runs_under_way_are_left_out(tmp_path: Path) -> None:
    there, theirs = place(tmp_path / "a", ONE, **error()), place(tmp_path / "a", TWO)
    here = tmp_path / "out" / "runs" / TWO.run_id
    with acquire(RunFolder(there), Owner("cpu", 10)), acquire(RunFolder(here), Owner("cpu", 10)):
        gathered = merge([tmp_path / "a"], tmp_path / "out")
        assert gathered.left_out == [
            f"{there} (process {os.getpid()} on {Owner('cpu', 10).host})",
            f"{here} (process {os.getpid()} on {Owner('cpu', 10).host})",
        ]
        assert (gathered.copied, gathered.exit_code) == ([], 0)
    assert merge([tmp_path / "a"], tmp_path / "out").copied == [ONE.run_id, TWO.run_id]
    with acquire(RunFolder(theirs), Owner("cpu", 10)):  # it is finished: the claim is about to go
        assert merge([tmp_path / "a"], tmp_path / "third").copied == [ONE.run_id, TWO.run_id]


def test_a_dead_commands_claim_is_taken_over(tmp_path: Path) -> None:
    place(tmp_path / "a", ONE)
    target = tmp_path / "out" / "runs" / ONE.run_id
    acquire(RunFolder(target), replace(Owner("cpu", 10), start="1"))
    assert merge([tmp_path / "a"], tmp_path / "out").copied == [ONE.run_id]
    assert NAME not in names(target)


def test_what_is_no_record_is_named_and_never_copied_nor_replaced(tmp_path: Path) -> None:
    torn, moved = place(tmp_path / "a", ONE), place(tmp_path / "a", TWO)
    (torn / "result.json").write_text("{")
    moved.rename(moved.with_name("lsuv-relu-s9-00000000"))
    place(tmp_path / "b", ONE)
    gathered = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert (gathered.copied, gathered.exit_code) == ([ONE.run_id], 1)
    assert len(gathered.troubles) == 2
    assert str(torn / "result.json") in gathered.troubles[0] + gathered.troubles[1]
    gathered = merge([tmp_path / "b"], tmp_path / "a")
    assert (gathered.copied, len(gathered.troubles)) == ([], 1)
    assert (torn / "result.json").read_text() == "{"


def test_links_are_neither_read_from_the_sources_nor_written_through(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    folder = place(tmp_path / "a", ONE, curve=None)
    (folder / "curve.csv").symlink_to(tmp_path / "secret")
    gathered = merge([tmp_path / "a"], tmp_path / "out")
    assert gathered.troubles == [f"{folder / 'curve.csv'}: a symbolic link"]
    assert not list(tmp_path.glob("out/runs/*"))
    place(tmp_path / "b", ONE)
    (tmp_path / "out" / "runs" / ONE.run_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a symbolic link, and nothing is written through one"):
        merge([tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    place(tmp_path / "a", ONE)
    with pytest.raises(UsageError, match="b is no output folder: there is no "):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(UsageError, match="is the folder to collect into"):
        merge([tmp_path / "a"], tmp_path / "x" / ".." / "a")
    assert not (tmp_path / "out").exists()


def test_the_command_tells_of_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place(tmp_path / "a", ONE)
    place(tmp_path / "b", ONE, test_accuracy=1.0)
    place(tmp_path / "b", TWO)
    assert main(["collect", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "out")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"conflict: {ONE.run_id}: ")
    assert lines[-1] == "1 runs copied, 0 there already, 1 in conflict, 0 not readable, 0 under way"


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.lists(st.sampled_from(["none", "error", "5.0", "6.0"]), min_size=3, max_size=3), max_size=3))
def test_whatever_the_parts_the_merge_is_the_best_of_each_run(
    parts: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    runs = [Run("lsuv", "relu", seed) for seed in range(3)]
    for number, part in enumerate(parts):
        (folder / str(number) / "runs").mkdir(parents=True)
        for run, what in zip(runs, part, strict=True):
            if what != "none":
                place(folder / str(number), run, **(error() if what == "error" else {"test_accuracy": float(what)}))
    gathered = merge([folder / str(number) for number in range(len(parts))], folder / "out")
    for seed, run in enumerate(runs):
        seen = {part[seed] for part in parts} - {"none"}
        numbers, path = seen - {"error"}, folder / "out" / "runs" / run.run_id / "result.json"
        there = json.loads(path.read_text())["test_accuracy"] if path.exists() else "nothing"
        expected = "nothing" if not seen or len(numbers) > 1 else float(numbers.pop()) if numbers else None
        assert there == expected
    assert gathered.exit_code == int(any(len({p[s] for p in parts} - {"none", "error"}) > 1 for s in range(3)))

"""Verdicts on reruns, by numbers worked out by hand; tests/test_same_bits.py repeats real trainings."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from workers import SYNTHETIC, put, record

from replicate.errors import UsageError
from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.store.run_folder import Records, collect
from replicate.verify import rerun
from replicate.verify.rerun import DIFFERENT, IDENTICAL, WITHIN, compare, draw_sample, reasons

RUNS = tuple(Run("lsuv", "relu", seed, dataset="synthetic") for seed in range(20))
CURVE = b"iteration,test_accuracy\n391,40\n782,50\n"
RESULT = replace(
    record(RUNS[0], Options(Path("out"))),
    **{"test_accuracy": 90.0, "test_images": 10_000, "weights_sha256": "a" * 64, "versions": {"torch": "2.11"}},
    **{"commit": "c" * 40, "dirty": False, "environment": {"cpu_capability": "AVX2", "threads": 1}},
)
LOST = {"test_accuracy": None, "train_loss": None, "weights_sha256": None}
DIVERGED = replace(RESULT, **LOST, status="diverged", iteration=70)
B, WHY = {"device": "B"}, ["device: a test → B"]
WEIGHTS = {"weights_sha256": "b" * 64}


@pytest.mark.parametrize(
    ("recorded", "changes", "word", "differs", "why"),
    [
        (RESULT, {"seconds": 9.0, "finished": "later"}, IDENTICAL, [], []),
        (RESULT, WEIGHTS, DIFFERENT, ["weights"], []),
        # p = 0.9, n = 10,000: the standard error is 0.3 points, and the tolerance 1.96 · √2 · 0.3 = 0.83 points
        (RESULT, {**B, "test_accuracy": 90.80}, WITHIN, ["test_accuracy"], WHY),
        (RESULT, {**B, "test_accuracy": 90.90}, DIFFERENT, ["test_accuracy"], WHY),
        (RESULT, {**B, **LOST, "status": "error"}, DIFFERENT, ["status", "test_accuracy", "train_loss"], WHY),
        (DIVERGED, {}, IDENTICAL, [], []),
        (DIVERGED, {"iteration": 71}, DIFFERENT, ["iteration"], []),
        (DIVERGED, {**B, "iteration": 71}, WITHIN, ["iteration"], WHY),
    ],
)
def test_verdicts(recorded: Result, changes: dict[str, object], word: str, differs: list[str], why: list[str]) -> None:
    verdict = compare(recorded, replace(recorded, **changes), (CURVE, CURVE))
    assert (verdict.word, verdict.differs, verdict.reasons, verdict.not_compared) == (word, differs, why, [])


def test_curves_and_what_an_older_record_lacks() -> None:
    assert compare(RESULT, RESULT, (CURVE, CURVE + b"1000,52\n")).differs == ["curve.csv: number of rows"]
    longer = (CURVE + b"1000,52\n", CURVE + b"1000,53\n")
    assert compare(RESULT, RESULT, longer).differs == ["curve.csv from iteration 1000 on"]
    older = replace(RESULT, weights_sha256=None, environment=None, test_images=None)
    verdict = compare(older, RESULT, (None, CURVE))
    assert (verdict.word, verdict.not_compared) == (IDENTICAL, ["curve.csv", "weights"])
    assert verdict.reasons == ["cpu_capability: not recorded → AVX2"]


def test_what_may_affect_rounding_is_named() -> None:
    gpu = replace(RESULT, options={"device": "cuda", "deterministic": False, "threads": 1})
    assert list(reasons(gpu, gpu)) == ["record: not deterministic", "rerun: not deterministic"]
    # The number of runs on the device is no reason.
    two = replace(RESULT, options={**RESULT.options, "threads": 2, "runs_per_device": 8}, versions={"torch": "2.12"})
    assert list(reasons(RESULT, two)) == ["torch: 2.11 → 2.12", "threads: 1 → 2"]
    assert list(reasons(replace(RESULT, dirty=True), RESULT)) == ["record: code with uncommitted changes"]
    assert list(reasons(RESULT, replace(RESULT, commit="unknown", dirty=None)))[-1] == "rerun: unknown commit"
    parts = replace(RESULT, parts=[{"from": 0}, {"from": 5}])
    assert list(reasons(parts, RESULT)) == ["record: trained in 2 parts by different code or on different machines"]


def test_the_sample_is_seeded_nested_and_does_not_depend_on_other_runs() -> None:
    def draw(runs: tuple[Run, ...], count: int | None, seed: int = 0) -> list[str]:
        records = Records({run.run_id: replace(RESULT, run=run) for run in runs}, {}, 0)
        return [result.run.run_id for result in draw_sample(records, count, seed)]

    three = draw(RUNS, 3)
    assert draw(RUNS, 5)[:3] == draw(RUNS[::-1], 3) == three
    assert len({tuple(draw(RUNS, 3, seed)) for seed in range(5)}) == 5
    assert set(draw(RUNS, None)) == {run.run_id for run in RUNS}
    failed = Records({"x": replace(RESULT, status="error", test_accuracy=None)}, {}, 0)
    assert draw_sample(failed, 3, 0) == []


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({}, 0, "2 runs verified: 2 identical"),
        (WEIGHTS, 1, "differs in: weights\n  not recorded: curve.csv\n  no recorded difference in code or hardware"),
        (WEIGHTS | {"device": "[red]B"}, 0, "  may affect rounding: device: a test → [red]B\n"),
        (None, 1, "the rerun left no record"),
        (WEIGHTS, 3, ""),  # stopped: the next call resumes the reruns
    ],
)
def test_matching_reruns_are_removed(tmp_path: Path, changes: dict[str, object] | None, code: int, text: str) -> None:
    def carry_out(runs: tuple[Run, ...], folder: Path, check: rerun.CheckData) -> int:
        with pytest.raises(UsageError, match=f"fingerprint {SYNTHETIC}, but synthetic here has {'0' * 64}"):
            check({"synthetic": "0" * 64})
        check({"synthetic": SYNTHETIC})
        for run in runs if changes is not None else ():
            put(replace(RESULT, run=run, **changes), folder / "runs" / run.run_id)
        return 3 if code == 3 else 0

    console = Console(file=io.StringIO(), width=120)
    for run in RUNS[:2]:
        put(replace(RESULT, run=run), tmp_path / "runs" / run.run_id)
    before = collect(tmp_path, RUNS)
    assert rerun.verify(before, tmp_path, None, 0, carry_out, console) == code
    assert text in console.file.getvalue()
    left = [] if code == 0 or changes is None else [tmp_path / "verify" / {1: "last", 3: "runs"}[code]]
    assert list(tmp_path.glob("verify/*")) == left
    assert collect(tmp_path, RUNS) == before

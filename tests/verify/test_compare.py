"""Verdicts on reruns, by numbers worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from workers import record

from replicate.options import Options
from replicate.run import Run
from replicate.store.result import Result
from replicate.verify.compare import DIFFERENT, IDENTICAL, WITHIN, compare, reasons, tolerance

CURVE = b"iteration,test_accuracy\n391,40\n782,50\n"


@pytest.fixture
def result() -> Result:
    return replace(
        record(Run("lsuv", "relu"), Options(Path("out"))),
        **{"test_accuracy": 90.0, "test_images": 10_000, "weights_sha256": "a" * 64, "versions": {"torch": "2.11"}},
        **{"commit": "c" * 40, "dirty": False, "environment": {"cpu_capability": "AVX2", "threads": 1}},
    )


def test_the_same_bits_are_identical_whatever_the_machine(result: Result) -> None:
    again = replace(result, seconds=9.0, finished="later", images_per_second=1.0)
    verdict = compare(result, again, (CURVE, CURVE))
    assert (verdict.word, verdict.differs, verdict.reasons, verdict.tolerance) == (IDENTICAL, (), (), None)
    elsewhere = replace(again, device="another")
    verdict = compare(result, elsewhere, (CURVE, CURVE))
    assert (verdict.word, verdict.reasons) == (IDENTICAL, ("device: a test → another",))


def test_a_shared_device_is_no_difference_and_no_excuse(result: Result) -> None:
    options = {**result.options}
    del options["runs_per_device"]  # as in older records
    for before in (options, {**options, "runs_per_device": 8}):
        recorded = replace(result, options=before)
        verdict = compare(recorded, result, (CURVE, CURVE))
        assert (verdict.word, verdict.reasons) == (IDENTICAL, ())
        verdict = compare(recorded, replace(result, weights_sha256="b" * 64), (CURVE, CURVE))
        assert (verdict.word, verdict.reasons) == (DIFFERENT, ())


def test_nvidias_mps_is_a_part_of_the_machine(result: Result) -> None:
    assert result.environment is not None
    shared = replace(result, environment={**result.environment, "nvidia_mps": True})
    verdict = compare(shared, result, (CURVE, CURVE))
    assert (verdict.word, verdict.reasons) == (IDENTICAL, ("nvidia_mps: True → not recorded",))


@pytest.mark.parametrize("change", [{"weights_sha256": "b" * 64}, {"test_accuracy": 90.01}, {"train_loss": 1.0000001}])
def test_a_bit_that_differs_without_a_reason_is_one_too_many(result: Result, change: dict[str, object]) -> None:
    verdict = compare(result, replace(result, **change), (CURVE, CURVE))
    assert (verdict.word, verdict.reasons) == (DIFFERENT, ())
    assert verdict.differs == ("weights" if "weights_sha256" in change else next(iter(change)),)


def test_the_first_row_of_the_curve_that_differs_is_named(result: Result) -> None:
    other = CURVE.replace(b"782,50", b"782,51")
    assert compare(result, result, (CURVE, other)).differs == ("curve.csv from iteration 782 on",)
    assert compare(result, result, (CURVE, CURVE + b"1000,52\n")).differs == ("curve.csv: number of rows",)


def test_with_a_reason_the_accuracy_may_differ_by_what_chance_explains(result: Result) -> None:
    # p = 0.9, n = 10,000: the standard error is 0.3 points, and 1.96 · √2 · 0.3 = 0.8316
    assert tolerance(result, result) == pytest.approx(0.83156, abs=1e-5)
    elsewhere = {"versions": {"torch": "2.12"}, "weights_sha256": "b" * 64}
    near = compare(result, replace(result, **elsewhere, test_accuracy=90.80), (CURVE, None))
    assert (near.word, near.reasons) == (WITHIN, ("torch: 2.11 → 2.12",))
    assert near.tolerance == pytest.approx(0.80, abs=0.02)
    assert compare(result, replace(result, **elsewhere, test_accuracy=90.90), (CURVE, CURVE)).word == DIFFERENT
    assert compare(result, replace(result, **elsewhere, status="not_converged"), (CURVE, CURVE)).word == DIFFERENT


def test_runs_that_diverged_have_no_accuracy_to_compare(result: Result) -> None:
    lost = {"test_accuracy": None, "train_loss": None, "weights_sha256": None, "status": "diverged"}
    first, second = replace(result, **lost, iteration=70), replace(result, **lost, iteration=70)
    assert compare(first, second, (CURVE, CURVE)) == replace(compare(first, second, (CURVE, CURVE)), not_compared=())
    later = replace(second, iteration=71)
    assert compare(first, later, (CURVE, CURVE)).word == DIFFERENT
    assert compare(first, replace(later, device="another"), (CURVE, CURVE)).word == WITHIN


def test_a_rerun_that_failed_differs_on_any_machine(result: Result) -> None:
    failed = replace(result, status="error", test_accuracy=None, weights_sha256=None, device="another")
    assert compare(result, failed, (CURVE, CURVE)).word == DIFFERENT


def test_what_an_older_record_lacks_is_not_compared(result: Result) -> None:
    older = replace(result, weights_sha256=None, environment=None, test_images=None)
    verdict = compare(older, result, (None, CURVE))
    assert (verdict.word, verdict.not_compared) == (IDENTICAL, ("curve.csv", "weights"))
    assert verdict.reasons == ("cpu_capability: not recorded → AVX2",)


def test_what_leaves_the_bits_open_is_named(result: Result) -> None:
    gpu = replace(result, options={"device": "cuda", "deterministic": False, "threads": 1})
    assert list(reasons(gpu, gpu)) == ["record: not deterministic", "rerun: not deterministic"]
    assert list(reasons(replace(result, dirty=True), result)) == ["record: code with changes"]
    assert list(reasons(result, replace(result, commit="unknown", dirty=None)))[-1] == "rerun: unknown commit"
    two = replace(result, options=Options(Path("out"), threads=2).plain())
    assert list(reasons(result, two)) == ["threads: 1 → 2"]
    parts = replace(result, parts=[{"from": 0}, {"from": 5}])
    assert list(reasons(parts, result)) == ["record: trained in 2 parts by other code or on other machines"]

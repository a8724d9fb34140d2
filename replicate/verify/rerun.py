"""`replicate verify`: repeats a sample of the finished runs and compares the reruns with their records."""

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from replicate.matrix.plan import check_data
from replicate.report import text
from replicate.run import Run
from replicate.store.files import escape_control_chars, refuse_link
from replicate.store.result import Result
from replicate.store.run_folder import CURVE, Records, RunFolder

CheckData = Callable[[Mapping[str, str]], None]
CarryOut = Callable[[tuple[Run, ...], Path, CheckData], int]
IDENTICAL, WITHIN, DIFFERENT = "identical", "within tolerance", "different"
STYLES = {IDENTICAL: "green", WITHIN: "yellow", DIFFERENT: "red"}
STOPPED = 3  # exit code of a matrix that was stopped before all its runs were done


def verify(records: Records, out: Path, count: int | None, seed: int, carry_out: CarryOut, console: Console) -> int:
    """Repeat a sample of the finished runs and print how the reruns compare with their records.

    The reruns are written to `out/verify/runs`, never over the records. They are removed if all match, else they are
    kept as `out/verify/last`.

    Args:
        records: of the runs asked for, from `out`; some have finished.
        out: the output folder.
        count: size of the sample; None: all finished runs.
        seed: of the sample.
        carry_out: carries out runs in a given output folder, after it has passed the fingerprints of the data at hand
            to the given check; returns the exit code of a matrix.
        console: where to print.

    Returns:
        The exit code: 0 if every rerun is identical or within tolerance, 1 if some differ, 3 if the reruns were
        stopped; the next call resumes them.

    Raises:
        UsageError: the data is different, or `out/verify` is a symbolic link.
    """
    recorded = draw_sample(records, count, seed)
    folder = out / "verify"
    refuse_link(folder)
    runs = tuple(result.run for result in recorded)
    hint = "name the data it was run on with --data-dir"
    if carry_out(runs, folder, lambda found: check_data(recorded, found, hint)) == STOPPED:
        return STOPPED
    verdicts = []
    for result in recorded:
        before, after = (RunFolder.of(parent, result.run) for parent in (out, folder))
        verdicts.append(compare(result, after.record(), (before.curve_bytes(), after.curve_bytes())))
    print_verdicts(verdicts, console)
    if all(one.word != DIFFERENT for one in verdicts):
        shutil.rmtree(folder)
        return 0
    if (folder / "runs").is_dir():
        shutil.rmtree(folder / "last", ignore_errors=True)
        (folder / "runs").rename(folder / "last")
    return 1


def draw_sample(records: Records, count: int | None, seed: int) -> list[Result]:
    """Draw a sample of the finished runs.

    Runs are ordered by sha256 of `seed/run_id`. The order is the same on every machine and does not depend on which
    other runs have finished, and a larger sample contains the smaller one.

    Args:
        records: of the runs asked for.
        count: size of the sample; None: all.
        seed: of the sample.

    Returns:
        Their records, at most `count`.
    """
    finished = [result for result in records.results.values() if result.final]
    return sorted(finished, key=lambda one: hashlib.sha256(f"{seed}/{one.run.run_id}".encode()).digest())[:count]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a rerun compares with its record.

    Args:
        word: IDENTICAL, WITHIN or DIFFERENT.
        recorded: the record.
        rerun: the record of the rerun; None if it left none.
        tolerance: on the difference of the accuracies, in percentage points; None if it was not needed.
        differs: what differs in the result; empty if it is identical.
        reasons: what differs in the code or the machine, or may affect rounding otherwise.
        not_compared: what one of the two lacks, such as an older record.
    """

    word: str
    recorded: Result
    rerun: Result | None
    tolerance: float | None = None
    differs: Sequence[str] = ()
    reasons: Sequence[str] = ()
    not_compared: Sequence[str] = ()

    @property
    def explanation(self) -> str:
        """What differs and why, one line for each kind; empty if there is nothing to explain."""
        parts = {"differs in": self.differs, "may affect rounding": self.reasons, "not recorded": self.not_compared}
        lines = [f"  {name}: {escape_control_chars('; '.join(texts))}" for name, texts in parts.items() if texts]
        unexplained = self.word == DIFFERENT and not self.reasons
        return "\n".join([*lines, *["  no recorded difference in code or hardware explains this"] * unexplained])


def compare(recorded: Result, rerun: Result | None, curves: tuple[bytes | None, ...]) -> Verdict:
    """Compare a rerun with its record.

    Identical: status, iteration, accuracy, training loss, curve.csv and the digest of the weights agree to the bit.
    Within tolerance: something that may affect rounding differs (`reasons`), the statuses agree, and the accuracies
    differ by no more than sampling error (`tolerance`). Different: everything else.

    Args:
        recorded: the record.
        rerun: the record of the rerun, of the same run on the same data; None if it left none.
        curves: content of the two `curve.csv`; None if there is none.
    """
    if rerun is None:
        return Verdict(DIFFERENT, recorded, None, differs=["the rerun left no record"])
    numbers = ("status", "iteration", "test_accuracy", "train_loss")
    differs = [name for name in numbers if getattr(recorded, name) != getattr(rerun, name)]
    pairs = {CURVE: curves, "weights": (recorded.weights_sha256, rerun.weights_sha256)}
    not_compared = [name for name, pair in pairs.items() if None in pair and rerun.test_accuracy is not None]
    for name, pair in pairs.items():
        if None not in pair and pair[0] != pair[1]:
            differs.append(_first_difference(*curves) if name == CURVE else name)
    why = list(reasons(recorded, rerun))
    limit = tolerance(recorded, rerun) if differs else None
    gap = abs((recorded.test_accuracy or 0.0) - (rerun.test_accuracy or 0.0))
    close = recorded.status == rerun.status != "error" and (limit is None or gap <= limit)
    word = (WITHIN if why and close else DIFFERENT) if differs else IDENTICAL
    return Verdict(word, recorded, rerun, limit, differs, why, not_compared)


def _first_difference(first: bytes | None, second: bytes | None) -> str:
    """Describe where two learning curves part."""
    lines = [(curve or b"").decode("utf-8", "replace").splitlines() for curve in (first, second)]
    for one, other in zip(*lines, strict=False):
        if one != other:
            return f"{CURVE} from iteration {other.partition(',')[0]} on"
    return f"{CURVE}: number of rows"


def tolerance(recorded: Result, rerun: Result) -> float | None:
    """Largest difference of two test accuracies that sampling error explains, in percentage points.

    Two runs of a seed that rounding has separated are two trainings, and their accuracies are shares of the same n
    test images: 1.96 · √2 · √(p · (1 − p) / n), the 95 % limit of a difference of two such shares, with p their mean.

    Returns:
        None if a run has no accuracy, or n is not known.
    """
    images = rerun.test_images or recorded.test_images
    if recorded.test_accuracy is None or rerun.test_accuracy is None or not images:
        return None
    share = (recorded.test_accuracy + rerun.test_accuracy) / 200
    return 100 * 1.96 * math.sqrt(2 * share * (1 - share) / images)


def reasons(recorded: Result, rerun: Result) -> Iterator[str]:
    """Name what differs between the code and the machine of two records, and what else may change rounding."""
    before, now = _made_by(recorded), _made_by(rerun)
    for name in before | now:
        if before.get(name) != now.get(name):
            yield f"{name}: {before.get(name, 'not recorded')} → {now.get(name, 'not recorded')}"
    for name, result in {"record": recorded, "rerun": rerun}.items():
        if result.commit == "unknown":
            yield f"{name}: unknown commit"
        elif result.dirty is not False:
            yield f"{name}: code with uncommitted changes"
        if result.options.get("device") != "cpu" and not result.options.get("deterministic"):
            yield f"{name}: not deterministic"
        if result.parts:
            yield f"{name}: trained in {len(result.parts)} parts by different code or on different machines"


def _made_by(result: Result) -> dict[str, object]:
    # `runs_per_device` is left out, as it changes the time of a run and must not explain different bits.
    options = {name: result.options.get(name) for name in ("threads", "deterministic")}
    made_by = {"commit": result.commit[:12], "device": result.device, **result.versions, **(result.environment or {})}
    # `cpu` is left out, as `device` names the processor of a run on the CPU.
    return {name: value for name, value in (made_by | options).items() if value is not None and name != "cpu"}


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """Print one row per run, each explanation once for all runs that it applies to, and the totals."""
    head = (Column("run", no_wrap=True), Column("verdict", no_wrap=True), "record", "rerun", "tolerance")
    table = Table(*head, title="reruns compared with their records, test accuracy in %", title_justify="left")
    explained: dict[str, list[str]] = {}
    for one in verdicts:
        run_id, rerun = one.recorded.run.run_id, one.rerun.test_accuracy if one.rerun else None
        accuracies = map(text.decimal, (one.recorded.test_accuracy, rerun, one.tolerance))
        table.add_row(run_id, Text(one.word, STYLES[one.word]), *accuracies)
        if one.explanation:
            explained.setdefault(one.explanation, []).append(run_id)
    console.print(table)
    for explanation, run_ids in explained.items():
        console.print(Text(f"{', '.join(run_ids)}:\n{explanation}"))
    numbers = {word: sum(one.word == word for one in verdicts) for word in STYLES}
    totals = ", ".join(f"{number} {word}" for word, number in numbers.items() if number)
    console.print(f"{text.count(len(verdicts), 'run')} verified: {totals}")

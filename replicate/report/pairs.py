"""Paired runs: the same cell on two data sets, and what their difference says. Results in, Markdown out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from replicate.errors import UsageError
from replicate.report.axes import title
from replicate.report.markdown import decimal, signed
from replicate.report.statistics import Difference, paired
from replicate.results import Result, write_atomically
from replicate.untrusted import printable


@dataclass(frozen=True, slots=True)
class Pair:
    """Two finished runs that differ by their data set alone."""

    exact: Result
    lossy: Result

    @property
    def seed(self) -> int:
        """Of both."""
        return self.exact.run.seed

    @property
    def converged(self) -> bool:
        """Whether both runs did, so that their difference counts."""
        return self.exact.status == self.lossy.status == "converged"

    @property
    def accuracies(self) -> tuple[float | None, float | None]:
        """Test accuracies in %; None of a run that diverged."""
        return self.exact.test_accuracy, self.lossy.test_accuracy


def pair_up(results: Iterable[Result], exact: str, lossy: str) -> tuple[Pair, ...]:
    """Pair finished runs on the data set `exact` with those on `lossy` that are otherwise the same, by seed.

    Raises:
        UsageError: nothing to pair, or pairs that differ by more than their seed.
    """
    final = {result.run: result for result in results if result.final}
    pairs = [
        Pair(result, final[other])
        for run, result in final.items()
        if run.dataset == exact and (other := replace(run, dataset=lossy)) in final
    ]
    if not pairs:
        raise UsageError(f"no seed has finished on both {exact} and {lossy} yet; run it again")
    pairs.sort(key=lambda pair: pair.seed)
    if any(replace(pair.exact.run, seed=pairs[0].seed) != pairs[0].exact.run for pair in pairs):
        raise UsageError("the pairs differ by more than their seed, so that they are no cell")
    return tuple(pairs)


def difference(pairs: Sequence[Pair]) -> Difference | None:
    """Accuracy on the lossy images less that on the exact ones, over the pairs that converged; None below two pairs."""
    good = [pair.accuracies for pair in pairs if pair.converged]
    exact = [float(first) for first, _ in good if first is not None]
    lossy = [float(second) for _, second in good if second is not None]
    return paired(lossy, exact) if len(good) > 1 else None


def reading(found: Difference | None, count: int) -> str:
    """Say what a difference says, and how sure it is.

    Args:
        found: lossy less exact, in points.
        count: number of pairs behind it.
    """
    if found is None:
        return f"{count} converged pair{'s' * (count != 1)}: at least two are needed to say anything."
    low, high = found.interval.low, found.interval.high
    line = f"**JPEG less exact: {signed(found.value)} ± {(high - low) / 2:.2f} points** (mean paired difference, 95 % t interval, n = {count}, p = {found.p:.2g}). "  # noqa: E501
    if low > 0:
        return f"{line}Training on JPEG gave the higher accuracy here."
    if high < 0:
        return f"{line}Training on JPEG cost accuracy here."
    return f"{line}No difference is shown; a cost of more than {max(-low, 0):.2f} points is outside the interval."


def page(pairs: Sequence[Pair], images: str, command: str) -> str:
    """Lay out what JPEG costs.

    Args:
        pairs: at least one.
        images: a paragraph on the images, in Markdown.
        command: what made the page.
    """
    run = pairs[0].exact.run
    good = [pair for pair in pairs if pair.converged]
    results = [result for pair in pairs for result in (pair.exact, pair.lossy)]
    left_out = [str(pair.seed) for pair in pairs if not pair.converged]
    rows = [f"| {pair.seed} | {_cell(pair.exact)} | {_cell(pair.lossy)} | {_difference(pair)} |" for pair in pairs]
    means = [fmean(float(one.test_accuracy or 0) for one in side) for side in
             ([pair.exact for pair in good], [pair.lossy for pair in good])] if good else [None, None]  # fmt: skip
    rows.append(f"| mean of {len(good)} | {decimal(means[0])} | {decimal(means[1])} | {_mean_difference(means)} |")
    return "\n".join([
        "# What JPEG costs", "",
        f"`{printable(command)}`", "",
        f"- Cell: {title(run.init)} × {title(run.activation)}, {run.model} at width {run.width:g}, "
        f"{run.iterations:,} iterations of {run.batch_size} images, rate {run.lr:g} times {run.lr_factor:g} at "
        f"{', '.join(f'{one:,}' for one in run.milestones) or 'no iteration'}; {run.precision}.",
        f"- Device: {_several(result.device for result in results)}; commit "
        f"{_several(result.commit[:12] + ' with changes' * bool(result.dirty) for result in results)}; "
        f"{sum(result.seconds for result in results) / 3600:.2f} hours of runs, the last finished {max(result.finished for result in results)[:10]}.",  # noqa: E501
        f"- Images: {images}", "",
        "Both runs of a pair have the same seed: the same weights before LSUV, and the same images in the same "
        "order, crops and mirrors. One trains on exact pixels, the other on JPEG; both are tested on exact ones.",
        "",
        "| seed | exact, % | JPEG, % | JPEG less exact |", "|---|---|---|---|", *rows, "",
        *([f"Left out, as not both of the pair converged: seed {', '.join(left_out)}.", ""] if left_out else []),
        reading(difference(pairs), len(good)), "",
        "It says what JPEG costs with these few training images, this schedule and this width, and nothing of what it "
        "costs with 50,000 images or by the paper's schedule. JPEG images of the full data set are tested on JPEG too, "
        "which is not measured here.", "",
    ])  # fmt: skip


def write_page(path: Path, pairs: Sequence[Pair], images: str, command: str) -> Path:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, page(pairs, images, command))


def _cell(result: Result) -> str:
    if result.status == "converged":
        return decimal(result.test_accuracy)
    return "diverged" if result.test_accuracy is None else f"{decimal(result.test_accuracy)} (n/c)"


def _difference(pair: Pair) -> str:
    exact, lossy = pair.accuracies
    return signed(lossy - exact) if pair.converged and exact is not None and lossy is not None else "–"


def _mean_difference(means: Sequence[float | None]) -> str:
    return "–" if means[0] is None or means[1] is None else signed(means[1] - means[0])


def _several(texts: Iterable[str]) -> str:
    return printable(", ".join(sorted(set(texts))))

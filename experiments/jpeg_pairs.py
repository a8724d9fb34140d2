"""The page of jpeg_cost.py: paired runs on exact and on lossy images, and their difference."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from scipy.stats import ttest_rel

from replicate.errors import UsageError
from replicate.report.text import cell_name
from replicate.store.files import escape_control_chars
from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class Pair:
    """Two finished runs that differ only in their data set: exact pixels or lossy ones."""

    exact: Result
    lossy: Result

    @property
    def seed(self) -> int:
        """The seed of both."""
        return self.exact.run.seed

    @property
    def accuracies(self) -> tuple[float, float] | None:
        """Test accuracies in %, exact first; None if either run did not converge."""
        both = (self.exact, self.lossy)
        found = [float(one.test_accuracy or 0) for one in both if one.status == "converged"]
        return (found[0], found[1]) if len(found) == 2 else None


def pair_up(results: Iterable[Result], exact: str, lossy: str) -> tuple[Pair, ...]:
    """Pair finished runs on the data set `exact` with otherwise equal runs on `lossy`, in order of seed.

    Raises:
        UsageError: there is nothing to pair, or the pairs differ by more than their seed.
    """
    final = {result.run: result for result in results if result.final}
    pairs = [
        Pair(result, final[other])
        for run, result in final.items()
        if run.dataset == exact and (other := replace(run, dataset=lossy)) in final
    ]
    if not pairs:
        raise UsageError(f"no seed has finished on both {exact} and {lossy} yet; run the command again to continue")
    pairs.sort(key=lambda pair: pair.seed)
    if any(replace(pair.exact.run, seed=pairs[0].seed) != pairs[0].exact.run for pair in pairs):
        raise UsageError("the pairs differ by more than their seed; give --set so that only one cell remains")
    return tuple(pairs)


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean paired difference, half the width of its 95 % interval, and the two-sided p-value of no difference."""

    value: float
    half: float
    p: float


def difference(pairs: Iterable[Pair]) -> Difference | None:
    """Subtract accuracies on exact images from those on lossy ones, in points; None: fewer than two pairs converged."""
    good = [both for pair in pairs if (both := pair.accuracies)]
    if len(good) < 2:
        return None
    exact, lossy = zip(*good, strict=True)
    found = ttest_rel(lossy, exact)
    low, high = found.confidence_interval(0.95)
    return Difference(fmean(lossy) - fmean(exact), float(high - low) / 2, float(found.pvalue))


def verdict(found: Difference | None, n: int) -> str:
    """Interpret a difference in one or two sentences of Markdown.

    Args:
        found: lossy less exact, in points.
        n: number of converged pairs.
    """
    if found is None:
        return f"Converged pairs: {n}. At least two are needed for an interval."
    low, high = found.value - found.half, found.value + found.half
    numbers = f"{_signed(found.value)} ± {found.half:.2f} points"
    line = f"**JPEG less exact: {numbers}** (mean paired difference, 95 % t interval, n = {n}, p = {found.p:.2g}). "
    if low > 0:
        return f"{line}Training on JPEG gave the higher accuracy here."
    if high < 0:
        return f"{line}Training on JPEG cost accuracy here."
    return (
        f"{line}No difference is shown: the interval reaches from a cost of {-low:.2f} points to a gain of {high:.2f}."
    )


def page(pairs: Sequence[Pair], images: str, command: str) -> str:
    """Format the page as Markdown.

    Args:
        pairs: at least one.
        images: a paragraph on the images, in Markdown.
        command: command line that made the page.
    """
    good = [both for pair in pairs if (both := pair.accuracies)]
    means = (fmean(exact for exact, _ in good), fmean(lossy for _, lossy in good)) if good else None
    left_out = ", ".join(str(pair.seed) for pair in pairs if pair.accuracies is None)
    lines = [
        "# What JPEG costs",
        f"`{escape_control_chars(command)}`",
        "\n".join(_facts(pairs, images)),
        "Both runs of a pair have the same seed: the same weights before LSUV, and the same images in the same order, "
        "crops and mirrors. One trains on exact pixels, the other on JPEG; both are tested on exact pixels.",
        "\n".join([
            "| seed | exact, % | JPEG, % | JPEG less exact |",
            "|---|---|---|---|",
            *(_row(str(pair.seed), pair.accuracies, (_status(pair.exact), _status(pair.lossy))) for pair in pairs),
            _row(f"mean of {len(good)}", means, ("", "")),
        ]),
        *([f"Left out, because not both runs converged: seed {left_out}."] if left_out else []),
        verdict(difference(pairs), len(good)),
        "This holds for these few training images, this schedule and this width; it does not show what JPEG costs with "
        "all 50,000 images or with the paper's schedule. The runs on `folder:cifar10-jpeg` are tested on JPEG too.",
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def _facts(pairs: Sequence[Pair], images: str) -> list[str]:
    run, results = pairs[0].exact.run, [one for pair in pairs for one in (pair.exact, pair.lossy)]
    steps = ", ".join(f"{milestone:,}" for milestone in run.milestones) or "no iteration"
    commits = {f"{one.commit[:12]}{' with changes' if one.dirty else ''}" for one in results}
    hours = sum(one.seconds for one in results) / 3600
    return [
        f"- Cell: {cell_name(run.init, run.activation)}, {run.model} at width {run.width:g}, {run.precision}.",
        f"- Schedule: {run.iterations:,} iterations of {run.batch_size} images, learning rate {run.lr:g}, times "
        f"{run.lr_factor:g} at {steps}.",
        f"- Device: {escape_control_chars(', '.join(sorted({one.device for one in results})))}; {hours:.2f} hours of "
        "runs in all, "
        f"the last finished on {max(one.finished for one in results)[:10]}. "
        f"Commit: {escape_control_chars(', '.join(sorted(commits)))}.",
        f"- Images: {images}",
    ]


def _status(result: Result) -> str:
    if result.test_accuracy is None:
        return "diverged"
    return f"{result.test_accuracy:.2f}" + ("" if result.status == "converged" else " n/c")


def _row(name: str, both: tuple[float, float] | None, otherwise: tuple[str, str]) -> str:
    texts = (f"{both[0]:.2f}", f"{both[1]:.2f}") if both else otherwise
    return f"| {name} | {texts[0]} | {texts[1]} | {_signed(both[1] - both[0]) if both else '–'} |"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")

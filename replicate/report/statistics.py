"""Statistics of a table: intervals, spreads, differences and tests. Numbers in, numbers out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import bdtr, betaincinv, chdtrc, stdtr, stdtrit

from replicate.report.cell import Tally

LEVEL = 0.95  # of every interval; tests are two-sided at 1 - LEVEL


class Interval(NamedTuple):
    """An interval, by both of its ends."""

    low: float
    high: float


def t_quantile(df: float) -> float:
    """Two-sided critical value of Student's t at LEVEL for `df` degrees of freedom."""
    return float(stdtrit(df, (1 + LEVEL) / 2))


def mean_interval(cell: Tally) -> Interval | None:
    """95 % t interval of a cell's mean accuracy; None if it is n/c or has fewer than two converged runs."""
    if cell.mean is None or cell.sd is None:
        return None
    half = t_quantile(cell.converged - 1) * cell.sd / math.sqrt(cell.converged)
    return Interval(cell.mean - half, cell.mean + half)


class Spread(NamedTuple):
    """Standard deviation of one run, in percentage points, and its degrees of freedom."""

    sd: float
    df: int


def spread_of(cell: Tally) -> Spread | None:
    """The spread of the converged runs of one cell; None if it is n/c or has fewer than two of them."""
    return None if cell.sd is None else Spread(cell.sd, cell.converged - 1)


def pooled(spreads: Sequence[Spread]) -> Spread | None:
    """Pool spreads, df = Σ df; None if there are none."""
    df = sum(spread.df for spread in spreads)
    return Spread(math.sqrt(sum(spread.df * spread.sd**2 for spread in spreads) / df), df) if df else None


def bartlett(spreads: Sequence[Spread]) -> float | None:
    """P value of Bartlett's test (1937) that all spreads estimate the same one; None for fewer than two, or all 0.

    With the few runs of a cell, the test of Brown and Forsythe (1974) seldom finds a difference: with five runs in each
    of 18 cells, whose deviations go from 0.1 to 0.6, in about 20 % of tables, this one in about 95 %. Its weakness is
    that it also rejects for runs that are not normally distributed. Then each cell is judged by its own deviation,
    which misses 6 to 8 % of skewed or heavy-tailed runs, where the pooled one misses 4 to 5 %.
    """
    total = pooled(spreads)
    if len(spreads) < 2 or not total or not total.sd:
        return None
    if not all(spread.sd for spread in spreads):
        return 0.0
    excess = -2 * sum(spread.df * math.log(spread.sd / total.sd) for spread in spreads)
    more_groups = len(spreads) - 1
    correction = 1 + (sum(1 / spread.df for spread in spreads) - 1 / total.df) / (3 * more_groups)
    return float(chdtrc(more_groups, max(0.0, excess) / correction))  # equal spreads can be rounded to less than 0


@dataclass(frozen=True, slots=True)
class Spreads:
    """How much the runs of a table's cells scatter.

    Args:
        pooled: over all cells with at least two converged runs; None if there are none.
        p: of Bartlett's test that all cells with at least three converged runs scatter alike; None: too few.
    """

    pooled: Spread | None
    p: float | None

    @classmethod
    def of(cls, cells: Iterable[Tally]) -> "Spreads":
        """Pool and compare the spreads of cells."""
        found = [spread for cell in cells if (spread := spread_of(cell))]
        # two runs may well agree to the last image, and a spread of 0 would differ from all others
        return cls(pooled(found), bartlett([spread for spread in found if spread.df > 1]))

    @property
    def alike(self) -> bool:
        """Whether one spread, the pooled one, holds for all cells: the test does not reject it."""
        return self.p is None or self.p > 1 - LEVEL

    def judging(self, cell: Tally) -> Spread | None:
        """The spread by which a cell is judged: the pooled one if the cells scatter alike, otherwise its own."""
        return self.pooled if self.alike else spread_of(cell)


def prediction_half_width(spread: Spread, n: int) -> float:
    """Half the 95 % prediction interval of one more run around the mean of n runs: t · s · √(1 + 1/n)."""
    return t_quantile(spread.df) * spread.sd * math.sqrt(1 + 1 / n)


def clopper_pearson(successes: int, trials: int) -> Interval:
    """Exact 95 % interval of a share (Clopper and Pearson 1934), in %, for at least one trial."""
    tail = (1 - LEVEL) / 2
    low = betaincinv(successes, trials - successes + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, trials - successes, 1 - tail) if successes < trials else 1.0
    return Interval(100 * float(low), 100 * float(high))


class Difference(NamedTuple):
    """Difference of two means, its 95 % interval, and the two-sided p value of no difference."""

    value: float
    interval: Interval
    p: float


@lru_cache(maxsize=1024)
def _deviation(sample: tuple[float, ...]) -> float:
    """The standard deviation. A cell is compared with many others, and exact sums take long."""
    return stdev(sample)


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Mean of `first` less mean of `second`, without assuming equal variances (Welch 1947); both need two values."""
    value = fmean(first) - fmean(second)
    errors = [_deviation(tuple(sample)) ** 2 / len(sample) for sample in (first, second)]
    scale = math.sqrt(sum(errors))
    if scale == 0:  # no spread at all, so the difference is certain
        return Difference(value, Interval(value, value), 1.0 if value == 0 else 0.0)
    # Welch and Satterthwaite's degrees of freedom, by shares of the variance, which cannot underflow
    shares = [error / sum(errors) for error in errors]
    df = 1 / sum(share**2 / (len(sample) - 1) for share, sample in zip(shares, (first, second), strict=True))
    half = t_quantile(df) * scale
    p = 2 * float(stdtr(df, -abs(value) / scale))
    return Difference(value, Interval(value - half, value + half), p)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p values for their number (Holm 1979), in the order given; compare them with 1 - LEVEL."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947): do two nets classify equally many test images correctly?

    Under the null hypothesis, an image that only one net gets right is as likely the other's.

    Args:
        only_first: number of images that only the first net classifies correctly.
        only_second: number of images that only the second net classifies correctly.
    """
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))

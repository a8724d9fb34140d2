"""Looks at a layer, each by forward passes up to it: of as many batches as are asked for, or as it takes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from replicate.init.feed import Feed
from replicate.init.layers import WeightLayer
from replicate.init.passes import preactivation
from replicate.init.variance import Moments

ENOUGH = 64  # batches, after which a mean is taken as it is
# Student's t, 97.5 %, of a mean of 2, 3, … batches; of more than 10 a little too much
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


@dataclass(slots=True)
class Looks:
    """Measures the mean variance of each piece of a layer over fresh batches whenever it is called.

    Args:
        feed: runs the model.
        layer: to be measured.
        average: how many batches. None: as many as it takes until the 95 % interval of the mean reaches no further than
            `tol` on either side, or lies wholly outside of 1 ± tol, but no more than ENOUGH; and for the first look
            one, if that is off by more than `tol`.
        tol: LSUV's margin.
        chances: forward passes that may miss the layer before it is given up.
    """

    feed: Feed
    layer: WeightLayer
    average: int | None
    tol: float
    chances: int
    _first: bool = True

    def __call__(self) -> list[Moments] | None:
        """Look at the layer; None where forward passes leave it out."""
        seen: list[list[Moments]] = []
        for moments in self._fresh(self.average or ENOUGH):
            seen.append(moments)
            if len(seen) == self.average or (self.average is None and self._enough(seen)):
                self._first = False
                return [_mean(piece) for piece in zip(*seen, strict=True)]
        return None

    def _fresh(self, number: int) -> Iterator[list[Moments]]:
        # A model may leave layers out at random: the next forward pass may have it again.
        for _ in range(number + self.chances):
            if (moments := preactivation(self.feed, self.layer)) is not None:
                yield moments

    def _enough(self, seen: list[list[Moments]]) -> bool:
        if len(seen) == 1 and self._first:
            return all(not abs(moments.variance - 1) <= self.tol for moments in seen[0])
        return len(seen) >= ENOUGH or all(self._known(piece) for piece in zip(*seen, strict=True))

    def _known(self, piece: tuple[Moments, ...]) -> bool:
        found = [moments.variance for moments in piece]
        if not all(map(math.isfinite, found)):
            return True
        if len(found) == 1:
            return False
        mean = math.fsum(found) / len(found)
        spread = math.sqrt(math.fsum((variance - mean) ** 2 for variance in found) / (len(found) - 1))
        half = T[min(len(found) - 2, len(T) - 1)] * spread / math.sqrt(len(found))
        return half <= self.tol or abs(mean - 1) - half > self.tol


def _mean(parts: tuple[Moments, ...]) -> Moments:
    """Mean variance of several batches."""
    variance = sum(part.variance for part in parts) / len(parts)
    return Moments(sum(part.number for part in parts), variance)

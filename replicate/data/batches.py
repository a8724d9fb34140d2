"""Batches: the endless stream of fresh permutations, what augmentation does to each image, and the ends of passes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Generator, Tensor

NUMBERS = 7  # random numbers of an image for the augmentations that are off by default

# indices int64 (b,), crop offsets int64 (b, 2) in 0 to 2·pad, mirror bool (b,), numbers float32 (b, 7) on [0, 1)
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class BatchStream(Iterator[Batch]):
    """Which images a run sees, in which order, and how each is cropped and mirrored; without end.

    Batches are cut from a stream of fresh permutations: each has exactly `batch_size` images and may straddle two
    passes; nothing is dropped. (The released data layer reads one fixed order; reshuffling is our choice.)

    All random numbers of a pass are drawn when it begins, from one CPU generator and always in the same order:
    permutation, offsets, mirror bits. They are drawn even if padding or mirroring is off, so that switching it off
    does not change the order of the images; and batches are the same on every device, whatever the batch size. The
    numbers for other augmentations come from a generator that the first one seeds without being advanced.

    Args:
        n: number of images.
        batch_size: images in a batch; may exceed n.
        generator: of the CPU; the stream is its only user.
        pad: offsets are uniform on 0 to 2·pad.
        device: where the batches are needed; the numbers are copied there once per pass.
    """

    def __init__(self, n: int, batch_size: int, generator: Generator, pad: int, device: str = "cpu") -> None:
        self.n, self.batch_size, self.generator, self.pad, self.device = n, batch_size, generator, pad, device
        self.taken = 0  # batches so far
        self._pass = self._draw()
        self._position = 0  # within the pass

    def __next__(self) -> Batch:
        return self.take(1)

    def take(self, count: int) -> Batch:
        """Return the next batches, one after another in tensors of count·b images."""
        parts = []
        missing = count * self.batch_size
        while missing > 0:
            if self._position == self.n:
                self._pass, self._position = self._draw(), 0
            part = slice(self._position, min(self._position + missing, self.n))
            parts.append(tuple(drawn[part] for drawn in self._pass))
            missing -= part.stop - part.start
            self._position = part.stop
        self.taken += count
        indices, offsets, mirror, numbers = (torch.cat(part) for part in zip(*parts, strict=True))
        return indices, offsets, mirror, numbers

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the stream: the generator's state at the start of the pass, the place within it."""
        return {"generator": self._before, "position": self._position, "taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the position of a stream of the same images, batch size and padding."""
        self.generator.set_state(state_dict["generator"].cpu())
        self._pass = self._draw()
        self._position, self.taken = state_dict["position"], state_dict["taken"]

    def _draw(self) -> Batch:
        self._before = self.generator.get_state()
        order = torch.randperm(self.n, generator=self.generator)
        offsets = torch.randint(2 * self.pad + 1, (self.n, 2), generator=self.generator)
        mirror = torch.randint(2, (self.n,), generator=self.generator).bool()
        copy = Generator()
        copy.set_state(self.generator.get_state())
        other = Generator().manual_seed(int(torch.randint(2**62, (), generator=copy)))
        numbers = torch.rand(self.n, NUMBERS, generator=other)
        return order.to(self.device), offsets.to(self.device), mirror.to(self.device), numbers.to(self.device)


def epoch_ends(n: int, batch_size: int, iterations: int) -> list[int]:
    """List the iterations with a row in the learning curve: ceil(k·n / batch_size) for k = 1, 2, …, and the last.

    For 50,000 images in batches of 128: 391, 782, 1172, …

    Args:
        n: number of training images.
        batch_size: images in a batch; if it exceeds n, a pass ends in every iteration.
        iterations: the last iteration.
    """
    passes = iterations * batch_size // n
    return sorted({-(-k * n // batch_size) for k in range(1, passes + 1)} | {iterations})

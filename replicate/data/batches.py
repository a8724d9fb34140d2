"""From images to batches: preprocessing, the endless stream of fresh permutations, augmentation, ends of passes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

from replicate.data.dataset import Images

# indices int64 (b,), crop offsets int64 (b, 2) in 0 to 2·pad, mirror bool (b,)
Batch = tuple[Tensor, Tensor, Tensor]

GCN_CHUNK = 500  # images processed at a time, in float64: about 12 MB


def gcn_mean_image(train_images: Images, test_images: Images) -> tuple[Tensor, Tensor]:
    """Normalise the contrast of each image, then subtract the mean training image.

    GCN(image) = (image - mean) / standard deviation, both over all 3,072 values; x = GCN(image) - M, with M the mean
    over the GCN'd training images. The released code shows that contrast normalisation and a mean image were used (its
    data layer; the highway-networks README). The constants were not released. Dividing by the biased standard
    deviation, with a floor of 1e-8, is inferred: it matches the common `scale=55` recipe to within 1 %.

    Computed on the CPU, so that the input does not depend on the training device. Padding and cropping come later.

    Args:
        train_images: uint8 (N, 3, h, w).
        test_images: uint8 (n, 3, h, w).

    Returns:
        The training and the test images, float32, of the same shapes.
    """
    train, test = _gcn(train_images), _gcn(test_images)
    sums = (chunk.sum(0, dtype=torch.float64) for chunk in torch.split(train, GCN_CHUNK))
    mean_image = (sum(sums, start=torch.tensor(0.0)) / len(train)).float()
    return train.sub_(mean_image), test.sub_(mean_image)


def _gcn(images: Images) -> Tensor:
    out = torch.empty(images.shape)
    for start in range(0, len(images), GCN_CHUNK):
        # a copy, because the source may be a read-only map; in float64, so that the order of summation has no effect
        chunk = torch.from_numpy(images[start : start + GCN_CHUNK].astype("float64"))
        flat = chunk.flatten(1)  # n c h w -> n c·h·w
        flat -= flat.mean(1, keepdim=True)
        flat /= flat.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)
        out[start : start + GCN_CHUNK] = chunk
    return out


class BatchStream(Iterator[Batch]):
    """Which images a run sees, in which order, and how each is cropped and mirrored; without end.

    Batches are cut from a stream of fresh permutations: each has exactly `batch_size` images and may straddle two
    passes; nothing is dropped. (The released data layer reads one fixed order; reshuffling is our choice.)

    All random numbers of a pass are drawn when it begins, from one CPU generator and always in the same order:
    permutation, offsets, mirror bits. They are drawn even if padding or mirroring is off, so that switching it off
    does not change the order of the images; and batches are the same on every device, whatever the batch size.

    Args:
        n: number of images.
        batch_size: images in a batch; may exceed n.
        generator: of the CPU; the stream is its only user.
        pad: offsets are uniform on 0 to 2·pad.
        device: where the batches are needed; the numbers are copied there once per pass.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, pad: int, device: str = "cpu") -> None:
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
            parts.append(tuple(numbers[part] for numbers in self._pass))
            missing -= part.stop - part.start
            self._position = part.stop
        self.taken += count
        indices, offsets, mirror = (torch.cat(numbers) for numbers in zip(*parts, strict=True))
        return indices, offsets, mirror

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
        return order.to(self.device), offsets.to(self.device), mirror.to(self.device)


def augment(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Pad with zeros, crop to the original size and mirror, in this order; for a whole batch at once on its own device.

    Draws no random numbers: they come from a BatchStream.

    Args:
        images: (n, c, h, w), any dtype and device.
        offsets: int64 (n, 2), row and column at which the crop begins in the padded image, 0 to 2·pad; (pad, pad) gives
            the image itself.
        mirror: bool (n,), whether to swap left and right.
        pad: number of zero pixels on each side.

    Returns:
        (n, c, h, w), a new tensor, channels_last: convolutions are faster in this layout, on a CPU as well. Crops are
        also faster if the images already have this layout.
    """
    n, c, h, w = images.shape
    padded = zero_pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)  # n c h w -> n h+2·pad w+2·pad c
    height, width = padded.shape[1:3]
    columns = torch.arange(w, device=images.device)
    columns = torch.where(mirror[:, None], w - 1 - columns, columns) + offsets[:, 1:]  # n w
    rows = offsets[:, :1] + torch.arange(h, device=images.device)  # n h
    rows += height * torch.arange(n, device=images.device)[:, None]  # of all images, one below the other
    pixels = (width * rows)[:, :, None] + columns[:, None, :]  # n h w
    cropped = padded.reshape(-1, c).index_select(0, pixels.flatten())
    return cropped.view(n, h, w, c).permute(0, 3, 1, 2)


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

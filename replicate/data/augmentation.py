"""Augmentation: random changes of training images, for a whole batch at once on its own device.

Nothing here draws random numbers: they come from a BatchStream. All operations give the same bits on every device.
Images are float32 (n, c, h, w).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad

from replicate.run import Run


class Augmentation:
    """The augmentation of a run: colours, zoom, crop and mirror, cutout, in this order.

    Args:
        run: which of them, and how strong.
        deviation: standard deviation of the values of the training images.
    """

    def __init__(self, run: Run, deviation: float) -> None:
        self.run, self.deviation = run, deviation

    def __call__(self, images: Tensor, offsets: Tensor, mirror: Tensor, numbers: Tensor) -> Tensor:
        """Change a batch of images (n, c, h, w), channels_last. The other arguments are those of a Batch."""
        run = self.run
        if run.colour_jitter:
            images = jitter_colours(images, numbers[:, : 1 + images.shape[1]], run.colour_jitter, self.deviation)
        if run.zoom:
            images = zoom(images, numbers[:, 4], run.zoom)
        images = crop(images, offsets, mirror & run.mirror, run.pad)
        if run.cutout:
            images = cut_out(images, numbers[:, 5:], run.cutout)
        return images


def jitter_colours(images: Tensor, numbers: Tensor, strength: float, deviation: float) -> Tensor:
    """Multiply all values of each image by a random factor, and shift each of its channels.

    x becomes x · (1 + strength · u) + strength · deviation · v, where u, of the image, and v, of the channel, are
    uniform on -1 to 1. This is our choice.

    Args:
        images: (n, c, h, w).
        numbers: (n, 1 + c), uniform on 0 to 1: u and the v of each image.
        strength: as above.
        deviation: of the values of the training images.
    """
    u = (2 * numbers - 1) * strength
    return images * (1 + u[:, :1, None, None]) + (u[:, 1:] * deviation)[:, :, None, None]


def zoom(images: Tensor, numbers: Tensor, strength: float) -> Tensor:
    """Scale each image about its centre by a factor uniform on 1 - strength to 1 + strength; zero outside of it.

    Each pixel takes the value of the nearest one: interpolation would not give the same bits on every device.

    Args:
        images: (n, c, h, w).
        numbers: (n,), uniform on 0 to 1.
        strength: as above.
    """
    n, _, h, w = images.shape
    factor = 1 + (2 * numbers.double() - 1) * strength
    rows, inside_rows = _sources(factor, h)
    columns, inside_columns = _sources(factor, w)
    image = torch.arange(n, device=images.device)[:, None, None]
    zoomed = images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # n c h w -> n h w c
    inside = inside_rows[:, :, None] & inside_columns[:, None, :]
    return zoomed.masked_fill_(~inside[..., None], 0).permute(0, 3, 1, 2)


def _sources(factor: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where each of `size` pixels in a row is taken from (n, size), and whether that is in the image."""
    centres = torch.arange(size, dtype=torch.float64, device=factor.device) + 0.5 - size / 2
    source = (centres / factor[:, None] + size / 2).floor().long()
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def crop(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Pad with zeros, crop to the original size and mirror, in this order.

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


def cut_out(images: Tensor, numbers: Tensor, side: int) -> Tensor:
    """Set a square of each image to zero; its centre is any pixel, so a part of it may lie outside (DeVries 2017).

    Args:
        images: (n, c, h, w); changed in place.
        numbers: (n, 2), uniform on [0, 1): the centre's row and column.
        side: of the square, in pixels.
    """
    in_rows, in_columns = (
        _within(number, size, side) for number, size in zip(numbers.T, images.shape[2:], strict=True)
    )
    return images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def _within(number: Tensor, size: int, side: int) -> Tensor:
    """Whether each of `size` pixels in a row lies in a stretch of length `side` about a random one, bool (n, size)."""
    first = (number * size).long()[:, None] - side // 2
    pixels = torch.arange(size, device=number.device)
    return (pixels >= first) & (pixels < first + side)

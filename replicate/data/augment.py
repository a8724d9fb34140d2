"""Augmentation: random crops of zero-padded images and mirroring, for a whole batch at once on its own device."""

import torch
from torch import Tensor
from torch.nn.functional import pad as zero_pad


def augment(images: Tensor, offsets: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Pad with zeros, crop to the former size, mirror; in this order.

    Draws nothing: the random numbers come from `replicate.data.batches`.

    Args:
        images: (n, c, h, w), any dtype and device.
        offsets: int64 (n, 2), row and column at which the crop begins in the padded image, 0 to 2·pad; (pad, pad) gives
            the image itself.
        mirror: bool (n,), whether to swap left and right.
        pad: zero pixels on each side.

    Returns:
        (n, c, h, w), a new tensor.
    """
    n, c, h, w = images.shape
    device = images.device
    padded = zero_pad(images, (pad, pad, pad, pad))  # n c h w -> n c h+2·pad w+2·pad
    columns = torch.arange(w, device=device).expand(n, w)
    columns = torch.where(mirror[:, None], w - 1 - columns, columns)
    rows = offsets[:, :1] + torch.arange(h, device=device)  # n 1, h -> n h
    columns = offsets[:, 1:] + columns  # n 1, n w -> n w
    image = torch.arange(n, device=device)[:, None, None, None]
    channel = torch.arange(c, device=device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]  # -> n c h w

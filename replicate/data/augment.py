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
        (n, c, h, w), a new tensor, channels_last: convolutions are faster in this layout, on a CPU as well. So are the
        crops, if the images have it already.
    """
    n, c, h, w = images.shape
    device = images.device
    padded = zero_pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)  # n c h w -> n h+2·pad w+2·pad c
    height, width = padded.shape[1:3]
    columns = torch.arange(w, device=device)
    columns = torch.where(mirror[:, None], w - 1 - columns, columns) + offsets[:, 1:]  # n w
    rows = offsets[:, :1] + torch.arange(h, device=device)  # n h
    rows += height * torch.arange(n, device=device)[:, None]  # of all images, one below the other
    pixels = (width * rows)[:, :, None] + columns[:, None, :]  # n h w
    cropped = padded.reshape(-1, c).index_select(0, pixels.flatten())
    return cropped.view(n, h, w, c).permute(0, 3, 1, 2)

"""Preprocessing: uint8 images to the float32 input of the network, by the registry PREPROCESSINGS."""

from collections.abc import Callable

import torch
from torch import Tensor

from replicate.data.dataset import Images

CHUNK = 500
"""Images worked on at a time, in float64: about 12 MB."""


def gcn_mean_image(train_images: Images, test_images: Images) -> tuple[Tensor, Tensor]:
    """Normalise the contrast of each image, then subtract the mean training image.

    GCN(image) = (image - mean) / standard deviation, both over all 3,072 values; x = GCN(image) - M, with M the mean
    over the GCN'd training images. That contrast normalisation and a mean image were used is from the released code
    (its data layer; the highway-networks README); its constants were not released, and dividing by the biased
    standard deviation, floored at 1e-8, is inferred: it matches the common `scale=55` recipe to within 1 %.

    Always on the CPU, so that the input is the same whatever device trains; padding and cropping come later.

    Args:
        train_images: uint8 (N, 3, h, w).
        test_images: uint8 (n, 3, h, w).

    Returns:
        The training and the test images, float32, of the same shapes.
    """
    train, test = _gcn(train_images), _gcn(test_images)
    total = torch.zeros(train.shape[1:], dtype=torch.float64)
    for start in range(0, len(train), CHUNK):
        total += train[start : start + CHUNK].sum(0, dtype=torch.float64)
    mean_image = (total / len(train)).float()
    return train.sub_(mean_image), test.sub_(mean_image)


def _gcn(images: Images) -> Tensor:
    out = torch.empty(images.shape)
    for start in range(0, len(images), CHUNK):
        # a copy, for the source may be a read-only map; in float64, so that the order of summation does not show
        chunk = torch.from_numpy(images[start : start + CHUNK].astype("float64"))
        flat = chunk.flatten(1)  # n c h w -> n c·h·w
        flat -= flat.mean(1, keepdim=True)
        flat /= flat.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)
        out[start : start + CHUNK] = chunk
    return out


PREPROCESSINGS: dict[str, Callable[[Images, Images], tuple[Tensor, Tensor]]] = {"gcn-mean-image": gcn_mean_image}
"""Keyed by `replicate.run.PREPROCESSINGS`."""

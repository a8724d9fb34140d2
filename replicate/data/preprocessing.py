"""Preprocessing: from pixels to the input of a network. The statistics are always those of the training images.

Every function here takes the training images, uint8 (N, c, h, w), and the test images, uint8 (n, c, h, w), and returns
both as float32 of the same shapes. All of it runs on the CPU, so that the input does not depend on the training device.
Padding and cropping come later.

Except in GCN, which removes the scale, pixels are divided by 255 first: our choice.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from replicate.data.dataset import Images

CHUNK = 500  # images processed at a time, in float64: about 12 MB
EPSILON = 1e-5  # added to the variances before whitening, so that directions without variance stay small: our choice

Inputs = tuple[Tensor, Tensor]  # of the training and of the test images


def none(train_images: Images, test_images: Images) -> Inputs:
    """Pixels on 0 to 1."""
    return _unit(train_images), _unit(test_images)


def zero_centre(train_images: Images, test_images: Images) -> Inputs:
    """Subtract the mean of all training values, one number."""
    inputs = none(train_images, test_images)
    return _subtract(_mean(torch.split(inputs[0], CHUNK)).mean(), inputs)


def mean_image(train_images: Images, test_images: Images) -> Inputs:
    """Subtract the mean training image, as AlexNet does."""
    inputs = none(train_images, test_images)
    return _subtract(_mean(torch.split(inputs[0], CHUNK)), inputs)


def channel_mean(train_images: Images, test_images: Images) -> Inputs:
    """Subtract the mean of each colour channel, as VGG does."""
    inputs = none(train_images, test_images)
    return _subtract(_mean(torch.split(inputs[0], CHUNK)).mean((1, 2), keepdim=True), inputs)


def channel_mean_std(train_images: Images, test_images: Images) -> Inputs:
    """Subtract the mean of each colour channel and divide by its standard deviation, as ResNet does."""
    train, test = channel_mean(train_images, test_images)
    squares = (chunk.double().square() for chunk in torch.split(train, CHUNK))
    deviation = _mean(squares).mean((1, 2), keepdim=True).sqrt().clamp(min=1e-8).float()
    return train.div_(deviation), test.div_(deviation)


def gcn(train_images: Images, test_images: Images) -> Inputs:
    """Normalise the contrast of each image: (image - mean) / standard deviation, both over all its values.

    The released code shows that contrast normalisation was used (the highway-networks README). The constants were not
    released. Dividing by the biased standard deviation, with a floor of 1e-8, is inferred: it matches the common
    `scale=55` recipe to within 1 %.
    """
    return _gcn(train_images), _gcn(test_images)


def gcn_mean_image(train_images: Images, test_images: Images) -> Inputs:
    """Normalise the contrast of each image, then subtract the mean training image of these: the paper's input.

    The released code shows that both were used (its data layer; the highway-networks README).
    """
    inputs = gcn(train_images, test_images)
    return _subtract(_mean(torch.split(inputs[0], CHUNK)), inputs)


def pca_whitening(train_images: Images, test_images: Images) -> Inputs:
    """Whiten, and leave the images in the coordinates of the principal components, the largest first.

    The result has the shape of images but is none: its values have no neighbours. It shows why PCA is not used on
    pixels. See `_whiten`.
    """
    return _whiten(train_images, test_images, back=False)


def zca_whitening(train_images: Images, test_images: Images) -> Inputs:
    """Whiten, and return to the coordinates of the pixels. See `_whiten`."""
    return _whiten(train_images, test_images, back=True)


def _unit(images: Images) -> Tensor:
    out = torch.empty(images.shape)
    for start in range(0, len(images), CHUNK):
        # a copy, because the source may be a read-only map
        out[start : start + CHUNK] = torch.from_numpy(images[start : start + CHUNK].astype("float32")) / 255
    return out


def _gcn(images: Images) -> Tensor:
    out = torch.empty(images.shape)
    for start in range(0, len(images), CHUNK):
        # in float64, so that the order of summation has no effect
        chunk = torch.from_numpy(images[start : start + CHUNK].astype("float64"))
        flat = chunk.flatten(1)  # n c h w -> n c·h·w
        flat -= flat.mean(1, keepdim=True)
        flat /= flat.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)
        out[start : start + CHUNK] = chunk
    return out


def _mean(chunks: Iterable[Tensor]) -> Tensor:
    """Return the mean image (c, h, w) of chunks of images, in float64."""
    total, n = torch.tensor(0.0), 0
    for chunk in chunks:
        total, n = total + chunk.sum(0, dtype=torch.float64), n + len(chunk)
    return total / n


def _subtract(mean: Tensor, inputs: Inputs) -> Inputs:
    train, test = inputs
    return train.sub_(mean.float()), test.sub_(mean.float())


def _whiten(train_images: Images, test_images: Images, back: bool) -> Inputs:
    """Subtract the mean image and rotate to the principal components, each divided by √(its variance + EPSILON).

    The covariance of the result is the identity, except in directions whose variance is not large against EPSILON.
    50,000 images of CIFAR-10 took 3.5 minutes on two busy cores.

    Args:
        train_images: uint8 (N, c, h, w).
        test_images: uint8 (n, c, h, w).
        back: rotate back at the end (ZCA).
    """
    train, test = mean_image(train_images, test_images)
    parts = [chunk.flatten(1) for chunk in torch.split(train, CHUNK)]
    # Products in float32 and their sum in float64: the errors are far below EPSILON.
    total = sum(((part.T @ part).double() for part in parts), start=torch.tensor(0.0))
    variances, components = torch.linalg.eigh(total / len(train))  # ascending; components are columns
    variances, components = variances.flip(0), components.flip(1)
    largest = components.gather(0, components.abs().argmax(0, keepdim=True))
    components = components * largest.sign()  # a component has no sign of its own
    transform = components * (variances.clamp(min=0) + EPSILON).rsqrt()
    if back:
        transform = transform @ components.T
    for images in (train, test):
        for chunk in torch.split(images, CHUNK):
            chunk.copy_((chunk.flatten(1) @ transform.float()).view_as(chunk))
    return train, test

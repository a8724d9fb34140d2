"""The whole protocol in one file: python experiments/one_file.py --init lsuv --activation maxout

FitNet-4 on CIFAR-10 as in Table 3 of "All you need is a good init" (Mishkin & Matas, ICLR 2016), in plain PyTorch, from
top to bottom: images, network, initialisations, training. tests/test_one_file.py checks it against the package.
"Released code" is ducha-aiki/LSUVinit at commit a42ecdc0; README.md here lists the source of each number.
"""

import argparse
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F


def stream(seed: int, name: str) -> Generator:
    """Make one of a run's random generators, so that the weights, say, can change without changing the batches."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


# --- Images
SIDE, PAD = 32, 8  # pixels (released code)
INPUT_SCALE = 0.7  # inferred from the authors' logs, see input_scale.py


def cifar10(folder: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return CIFAR-10, downloaded if it is missing: preprocessed images and labels to train on, and those to test."""
    from torchvision.datasets import CIFAR10  # takes seconds, which `--help` does not need

    train, test = (CIFAR10(folder, train=split == "train", download=True) for split in ("train", "test"))
    pixels = [torch.from_numpy(one.data).permute(0, 3, 1, 2) for one in (train, test)]  # n h w c -> n c h w
    train_images, test_images = preprocess(*pixels)
    return train_images, torch.tensor(train.targets), test_images, torch.tensor(test.targets)


def normalise_contrast(images: Tensor) -> Tensor:
    """Give each image mean 0 and standard deviation 1 over its 3,072 values (inferred)."""
    x = images.double().flatten(1)  # n c h w -> n c·h·w
    x = x - x.mean(1, keepdim=True)
    return (x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-8)).float().view(images.shape)


def preprocess(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise the contrast of uint8 images (n, 3, 32, 32), subtract the mean training image, and scale."""
    train, test = (torch.cat([normalise_contrast(part) for part in images.split(500)]) for images in (train, test))
    mean_image = train.mean(0, dtype=torch.float64).float()
    return (train - mean_image) * INPUT_SCALE, (test - mean_image) * INPUT_SCALE


def augment(images: Tensor, corners: Tensor, mirror: Tensor) -> Tensor:
    """Pad images (n, 3, 32, 32) with zeros, crop each at its corner (n, 2), and mirror those marked by mirror (n,)."""
    pixels = torch.arange(SIDE, device=images.device)
    rows, columns = corners[:, :1] + pixels, corners[:, 1:] + pixels  # n h, n w
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    crops = F.pad(images, (PAD,) * 4)[each, :, rows[:, :, None], columns[:, None, :]]
    return crops.permute(0, 3, 1, 2)  # n h w c -> n c h w


def endless_draws(n: int, generator: Generator) -> Iterator[tuple[int, list[int], bool]]:
    """Yield an image's number, its corner, and whether to mirror it. Each pass is a new permutation (our choice)."""
    while True:
        order = torch.randperm(n, generator=generator)
        corners = torch.randint(2 * PAD + 1, (n, 2), generator=generator)
        mirror = torch.randint(2, (n,), generator=generator).bool()
        yield from zip(order.tolist(), corners.tolist(), mirror.tolist(), strict=True)


def endless_batches(images: Tensor, labels: Tensor, generator: Generator, size: int = 128) -> Iterator[list[Tensor]]:
    """Yield augmented images (size, 3, 32, 32) and labels (size,). A batch may span two passes: none is smaller."""
    draws = endless_draws(len(images), generator)
    while True:
        columns = zip(*islice(draws, size), strict=True)
        numbers, corners, mirror = (torch.tensor(column, device=images.device) for column in columns)
        yield [augment(images[numbers], corners, mirror), labels[numbers]]


# --- Network
class Maxout(nn.Module):
    """Maximum over the pieces of each unit: (n, c·pieces, …) -> (n, c, …)."""

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """Return the maximum. Among equal pieces the gradient goes to the first, as in Caffe; NaN counts as larger."""
        best, *others = x.unflatten(1, (-1, self.pieces)).unbind(2)
        for other in others:
            best = torch.where((other > best) | other.isnan(), other, best)
        return best


SLOPE = 1 / 3  # of VLReLU, for negative input (released code: 0.333)
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {  # pieces of a layer -> the module after it
    "maxout": Maxout,
    "relu": lambda _: nn.ReLU(),
    "vlrelu": lambda _: nn.LeakyReLU(SLOPE),
    "tanh": lambda _: nn.Tanh(),
    "sigmoid": lambda _: nn.Sigmoid(),
}


def fitnet4(activation: str, width: float = 1.0, dropout: float = 0.2) -> nn.Sequential:
    """Build the network (released code): 17 convolutions, a hidden layer, the classifier. `width` scales the units."""
    conv_pieces, hidden_pieces = (2, 5) if activation == "maxout" else (1, 1)
    layers, inputs = [], 3  # modules so far, and channels of their output

    def add(layer: nn.Module, pieces: int) -> None:
        layer.pieces = pieces
        layers.extend([layer, ACTIVATIONS[activation](pieces)])

    for block, pool in (([32, 32, 32, 48, 48], 2), ([80] * 6, 2), ([128] * 6, 8)):  # the last pool spans the whole map
        layers.append(nn.Dropout(dropout))  # the first one drops values of the input
        for channels in block:
            outputs = max(1, round(channels * width))
            add(nn.Conv2d(inputs, outputs * conv_pieces, 3, padding=1), conv_pieces)
            inputs = outputs
        layers.append(nn.MaxPool2d(pool))
    hidden = max(1, round(500 * width))
    layers.extend([nn.Dropout(dropout), nn.Flatten()])
    add(nn.Linear(inputs, hidden * hidden_pieces), hidden_pieces)
    layers.append(nn.Dropout(dropout))
    add(nn.Linear(hidden, 10), pieces=1)
    return nn.Sequential(*layers[:-1])  # no activation after the classifier: softmax is part of the loss


# --- Initialisations
INITS = ("lsuv", "orthonormal", "orthonormal_msra", "xavier", "msra")


def draw(init: str, activation: str, shape: Sequence[int], generator: Generator) -> Tensor:
    """Draw a weight (out, in, …) by one of INITS; LSUV starts from orthonormal weights. Source: released code."""
    fan_in = math.prod(shape[1:])
    if init == "xavier":  # Caffe's; PyTorch's averages fan_in and fan_out
        bound = math.sqrt(3 / fan_in)
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)
    if init == "msra":  # Caffe's, without correction for the activation's slope
        return torch.empty(shape).normal_(0, math.sqrt(2 / fan_in), generator=generator)
    normal = torch.randn(shape[0], fan_in, generator=generator)
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    matrix = left if left.shape == normal.shape else right  # orthonormal columns or rows
    slope = SLOPE if activation == "vlrelu" else 0.0  # for sigmoid our choice
    return matrix.reshape(shape) * (math.sqrt(2 / (1 + slope**2)) if init == "orthonormal_msra" else 1.0)


def weights(layer: nn.Module) -> list[Tensor]:
    """List the weights (out, in, …) of a layer's pieces. Writing to them changes the layer."""
    return [layer.weight.detach().unflatten(0, (-1, layer.pieces))[:, piece] for piece in range(layer.pieces)]


@torch.no_grad()
def initialise_(net: nn.Sequential, init: str, activation: str, seed: int, batches: Iterator[list[Tensor]]) -> None:
    """Draw the weights of all layers, each piece on its own, set the biases to zero, and carry out LSUV."""
    generator = stream(seed, "init")
    for layer in net:
        if hasattr(layer, "weight"):
            layer.bias.zero_()
            for weight in weights(layer):
                weight.copy_(draw(init, activation, weight.shape, generator))
    torch.manual_seed(stream(seed, "dropout").initial_seed())
    if init == "lsuv":
        lsuv_(net, batches)
        torch.manual_seed(stream(seed, "dropout").initial_seed())  # LSUV does not change the masks of the training


def lsuv_(net: nn.Sequential, batches: Iterator[list[Tensor]], tol: float = 0.02, max_tries: int = 20) -> None:
    """Layer by layer, divide the weights by √var until the output's variance var is within 1 ± tol (released code)."""
    net(next(batches)[0])  # the package finds the layers' order by such a pass; here it only draws the same numbers
    for position, layer in enumerate(net):
        unfinished = range(layer.pieces) if hasattr(layer, "weight") else ()
        tries = 0
        while unfinished:  # each measurement takes a fresh batch, and dropout is active
            outputs = net[: position + 1](next(batches)[0]).unflatten(1, (-1, layer.pieces))  # n c·k … -> n c k …
            variances = [outputs[:, :, piece].var(correction=0).item() for piece in range(layer.pieces)]
            unfinished = [piece for piece in unfinished if abs(variances[piece] - 1) > tol and tries < max_tries]
            for piece in unfinished:
                weights(layer)[piece].div_(math.sqrt(variances[piece]))
            tries += 1


# --- Training
def predict(net: nn.Module, images: Tensor) -> Tensor:
    """Return logits (n, 10), in bf16 mixed precision on a GPU (our choice), in float32 on a CPU."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
        return net(images).to(images.dtype)  # the loss of bf16 logits would have 3 digits


def train(net: nn.Module, batches: Iterator[list[Tensor]], iterations: int) -> Iterator[Tensor]:
    """Train the net by SGD (released code), without weight decay on biases. Yields the loss of each iteration."""
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in net.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.SGD([{"params": matrices, "weight_decay": 5e-4}, {"params": biases}], lr=0.01, momentum=0.9)
    milestones = [round(iterations * ninths / 9) for ninths in (4, 6, 8)]  # 40,000, 60,000 and 80,000 of 90,000
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.1)
    for images, labels in islice(batches, iterations):
        loss = F.cross_entropy(predict(net, images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        yield loss.detach()


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the accuracy in %, without dropout."""
    net.eval()
    predicted = torch.cat([predict(net, part).argmax(1) for part in images.split(500)])
    return 100 * (predicted == labels).double().mean().item()


def main(words: Sequence[str] | None = None) -> None:
    """Train one cell of the table, and print its test accuracy."""
    parser = argparse.ArgumentParser(description="Train one cell of Table 3. The file itself explains everything.")
    parser.add_argument("--init", choices=INITS, default="lsuv")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="maxout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=float, default=1.0, help="factor on the number of units (default: 1)")
    parser.add_argument("--iterations", type=int, default=90_000, help="the schedule shrinks with it (default: 90000)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of CIFAR-10 (default: data)")
    given = parser.parse_args(words)
    if given.iterations < 1 or given.width <= 0:
        parser.error("--iterations and --width must be positive")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.allow_tf32 = False  # initialisations are in float32, whatever the precision of the training
    images, labels, test_images, test_labels = (tensor.to(device) for tensor in cifar10(given.data_dir))
    net = fitnet4(given.activation, given.width).to(device, memory_format=torch.channels_last)  # faster convolutions
    lsuv_batches = endless_batches(images, labels, stream(given.seed, "lsuv"))
    initialise_(net, given.init, given.activation, given.seed, lsuv_batches)
    batches = endless_batches(images, labels, stream(given.seed, "batches"))
    losses: list[Tensor] = []
    for iteration, loss in enumerate(train(net, batches, given.iterations), start=1):
        losses.append(loss)
        if iteration % 100 == 0 or iteration == given.iterations:
            mean = torch.stack(losses[-100:]).mean().item()
            print(f"iteration {iteration:,}: training loss {mean:.3f}", flush=True)
            if not math.isfinite(mean):
                print("diverged: a loss is not finite")
                return
    print(f"test accuracy: {accuracy(net, test_images, test_labels):.2f} %")


if __name__ == "__main__":
    main()

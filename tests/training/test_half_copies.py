"""A twin net in half precision against autocast on the net itself: the same bits, with fewer operations."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.training.half_copies import HalfCopies


class Operations(TorchDispatchMode):
    """Counts operations by name, but for views."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.counted[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def backward(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        loss = F.cross_entropy(net(images).float(), labels)
    loss.backward()


def train(net: nn.Module, copies: HalfCopies | None, iterations: int = 4) -> Counter[str]:
    """Train on noise; count the operations of the last iteration's forward and backward pass."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    noise = torch.Generator().manual_seed(1)
    torch.manual_seed(2)  # of dropout
    for _ in range(iterations):
        images = torch.randn(8, 3, 32, 32, generator=noise).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (8,), generator=noise)
        optimizer.zero_grad()
        with Operations() as operations:
            if copies is None:
                backward(net, images, labels)
            else:
                copies.refresh()
                backward(copies.net, images, labels)
                copies.return_gradients()
        optimizer.step()
    return operations.counted


def fitnet(activation: str) -> nn.Module:
    torch.manual_seed(0)
    return build(FITNET4, ACTIVATIONS[activation], width=0.125).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_weights_are_those_of_autocast_bit_by_bit(activation: str) -> None:
    plain, ours = fitnet(activation), fitnet(activation)
    before = train(plain, None)
    after = train(ours, HalfCopies(ours, torch.bfloat16))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), ours.parameters(), strict=True))
    assert not torch.equal(next(ours.parameters()), next(fitnet(activation).parameters()))
    # 19 layers of a weight and a bias, cast in both passes; left are the images, the logits and their gradient.
    assert before["_to_copy"] == 4 * 19 + 3
    assert after["_to_copy"] == 3
    assert after.total() == before.total() - 4 * 19 + 2


def test_what_autocast_leaves_alone_is_shared() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    copies = HalfCopies(net, torch.bfloat16)
    copies.refresh()
    twin = copies.net
    assert twin[1].weight is net[1].weight  # type: ignore[index]
    assert twin[1].running_mean is net[1].running_mean  # type: ignore[index]
    assert twin[0].weight.dtype == torch.bfloat16  # type: ignore[index]
    assert net[0].weight.dtype == torch.float32


def test_a_weight_without_a_gradient_has_none() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(3, 10), nn.Linear(3, 10)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.used(x)
            return y

    net = Half()
    copies = HalfCopies(net, torch.bfloat16)
    copies.refresh()
    backward(copies.net, torch.ones(2, 3), torch.tensor([0, 1]))
    copies.return_gradients()
    assert net.unused.weight.grad is None
    assert net.used.weight.grad is not None
    assert net.used.weight.grad.dtype == torch.float32


def test_a_frozen_weight_stays_frozen() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 10))
    net[0].requires_grad_(False)
    copies = HalfCopies(net, torch.bfloat16)
    copies.refresh()
    backward(copies.net, torch.ones(2, 3), torch.tensor([0, 1]))
    copies.return_gradients()
    assert net[0].weight.grad is None
    assert net[1].weight.grad is not None


def test_a_weight_that_two_layers_share_is_copied_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    net = nn.Sequential(first, nn.ReLU(), second)
    copies = HalfCopies(net, torch.bfloat16)
    assert copies.net[0].weight is copies.net[2].weight  # type: ignore[index]
    images, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 4
    backward(net, images, labels)
    assert first.weight.grad is not None
    plain = first.weight.grad.clone()
    net.zero_grad()
    copies.refresh()
    backward(copies.net, images, labels)
    copies.return_gradients()
    # Autocast adds up the two gradients in float32, a shared copy in half precision.
    assert torch.allclose(first.weight.grad, plain, rtol=2**-7, atol=2**-9)

"""The tensors of a captured iteration: nothing moves, and the half-precision twin has the same bits as autocast."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from training.fitting import seeded
from training.graphs import Recorder, prepared

from replicate.names import ACTIVATIONS, resolve
from replicate.nn.fitnet import FITNET4, FITRESNET4, Plan, build
from replicate.run import Run
from replicate.training.module import Classifier
from replicate.training.static_buffers import HalfCopies

KINDS = ("maxout", "relu", "vlrelu", "tanh", "sigmoid", "prelu")  # the last one has a weight that is not cast
NETS = [*((FITNET4, kind) for kind in KINDS), (FITRESNET4, "maxout")]
IMAGES = torch.randn(12, 3, 32, 32, generator=seeded(1)).contiguous(memory_format=torch.channels_last)
LABELS = torch.randint(10, (12,), generator=seeded(2))


def fitnet(plan: Plan, activation: str) -> nn.Module:
    torch.manual_seed(0)
    return build(plan, resolve(ACTIVATIONS[activation]), width=0.125).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("plan", "activation"), NETS)
def test_nothing_in_an_iteration_waits_for_the_host_and_nothing_moves(
    plan: Plan, activation: str, precision: str
) -> None:
    module = Classifier(fitnet(plan, activation), Run("lsuv", "relu", lr=0.05, clip_norm=1.0))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
        graph = prepared(module, IMAGES, LABELS, 3, fused=True)
        buffers = graph.buffers
        graph.set_rate(0.1)
        buffers.rewind()
        buffers.losses.zero_()
        kept = [*module.net.parameters(), *graph.momenta(), buffers.index, buffers.losses, buffers.logits]
        addresses, values = [tensor.data_ptr() for tensor in kept], [tensor.detach().clone() for tensor in kept]
        with Recorder():
            graph.replay()
    assert [tensor.data_ptr() for tensor in kept] == addresses
    changed = [not torch.equal(now, before) for now, before in zip(kept, values, strict=True)]
    assert sum(changed) > len(kept) / 2  # where hardly any gradient arrives, weights may stay
    assert changed[-3:] == [True, True, True]
    assert buffers.images.is_contiguous()
    buffers.rewind()
    assert buffers.batch()[0].is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(AssertionError, match="_local_scalar_dense cannot be captured"), Recorder():
        buffers.losses[0].item()


def backward(net: nn.Module, images: Tensor, labels: Tensor) -> None:
    torch.manual_seed(2)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        loss = F.cross_entropy(net(images).float(), labels)
    loss.backward()


@pytest.mark.parametrize(("plan", "activation"), NETS)
def test_the_gradients_are_those_of_autocast_bit_by_bit(plan: Plan, activation: str) -> None:
    net = fitnet(plan, activation)
    with Recorder() as plain:
        backward(net, IMAGES, LABELS)
    expected = [parameter.grad.clone() for parameter in net.parameters()]
    copies = HalfCopies(net, torch.bfloat16)
    net.zero_grad()
    with Recorder() as ours:
        copies.refresh()
        backward(copies.net, IMAGES, LABELS)
        copies.return_gradients()
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(net.parameters(), expected, strict=True))
    before, after = (
        Counter(operation[0].overloadpacket.__name__ for operation in one.operations) for one in (plain, ours)
    )
    # 19 layers of a weight and a bias, cast in both passes; the images, the logits and their gradient remain, and the
    # slopes of PReLU after 18 layers.
    remaining = 3 + 2 * 18 * (activation == "prelu")
    assert (before["_to_copy"], after["_to_copy"]) == (4 * 19 + remaining, remaining)
    assert after.total() == before.total() - 4 * 19 + 2


def test_what_autocast_does_not_cast_is_shared() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    twin = HalfCopies(net, torch.bfloat16).net
    assert twin[1].weight is net[1].weight  # type: ignore[index]
    assert twin[1].running_mean is net[1].running_mean  # type: ignore[index]
    assert (twin[0].weight.dtype, net[0].weight.dtype) == (torch.bfloat16, torch.float32)  # type: ignore[index]

"""Counting the work of an iteration."""

import pytest
import torch
from torch import nn

from replicate.bench.work import _Counter, iteration_work, multiply_adds
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.run import Run
from replicate.training.module import Classifier


@pytest.mark.parametrize(("activation", "count"), [("relu", 190_877_064), ("maxout", 381_941_128)])
def test_multiply_adds_are_those_of_the_released_net(activation: str, count: int) -> None:
    assert multiply_adds(build(FITNET4, ACTIVATIONS[activation])) == count


def test_a_kernel_moves_its_arguments_and_its_result_and_a_view_moves_nothing() -> None:
    a, b = torch.ones(4, 8), torch.ones(8)
    with _Counter() as counter:
        (a.t()[:, :2].unsqueeze(0), a + b)
    assert (counter.kernels, counter.traffic) == (1, 4 * (32 + 8 + 32))


def test_an_iteration_has_three_passes_and_leaves_the_model_as_it_was() -> None:
    net = build(FITNET4, ACTIVATIONS["relu"], width=0.125)
    model = Classifier(net, Run("lsuv", "relu"))
    before = [parameter.clone() for parameter in net.parameters()]
    drawn = torch.get_rng_state()
    work = iteration_work(model, 8, "32-true")
    assert torch.equal(drawn, torch.get_rng_state())
    assert work.operations == 6 * 8 * multiply_adds(net)
    # A convolution or linear layer takes a kernel forward and at least one backward, so does its ReLU.
    assert 19 * 2 + 18 * 2 < work.kernels < 1000
    weights = sum(4 * parameter.numel() for parameter in net.parameters())
    assert work.traffic > 3 * weights  # read forward, read backward, written by the optimiser
    assert all(torch.equal(old, new) for old, new in zip(before, net.parameters(), strict=True))
    assert all(isinstance(p, nn.Parameter) and p.grad is None for p in net.parameters())

"""What the initialisations see of a model: order, pieces, variances."""

import torch
from torch import nn

from replicate.init.layers import WeightLayer, forward_order, measuring, preactivation_variances, weight_layers


class Crossed(nn.Module):
    """Registered in another order than called; one layer is called twice, one never; the activation is in place."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 2)
        self.unused = nn.Linear(6, 6)
        self.first = nn.Linear(4, 6)
        self.shared = nn.Linear(6, 6)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.act(self.shared(self.act(self.first(x))))))


def test_forward_order_is_that_of_the_calls() -> None:
    assert [layer.name for layer in weight_layers(Crossed())] == ["last", "unused", "first", "shared"]
    assert [layer.name for layer in forward_order(Crossed(), torch.randn(8, 4))] == ["first", "shared", "last"]


def test_variances_are_those_before_an_activation_in_place() -> None:
    torch.manual_seed(0)
    model, x = Crossed(), torch.randn(32, 4)
    with torch.no_grad():
        first = model.first(x)
        shared = model.shared(first.clamp(min=0))
    found = preactivation_variances(model, x)
    assert list(found) == [("first", 0), ("shared", 0), ("last", 0)]
    # biased: divided by n
    assert abs(found["first", 0] - first.double().var(correction=0).item()) < 1e-6
    assert abs(found["shared", 0] - shared.double().var(correction=0).item()) < 1e-6


def test_pieces_are_slices_of_weight_and_output() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 6, 3)
    conv.pieces = 3
    layer = WeightLayer("conv", conv)
    for piece in range(3):
        layer.weight(piece).fill_(piece)
    # unit u, piece p is output channel u·3 + p
    assert conv.weight.data[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    output = torch.stack([torch.tensor([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])] * 4)[:, :, None, None]
    assert layer.variances(output) == [1.0, 4.0, 9.0]


def test_a_linear_layer_has_its_channels_last() -> None:
    linear = nn.Linear(3, 4)
    linear.pieces = 2
    output = torch.tensor([[[1.0, 5.0, -1.0, -5.0]] * 7] * 2)  # n t c·k
    assert WeightLayer("linear", linear).variances(output) == [1.0, 25.0]


def test_measuring_puts_everything_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Dropout())
    model.train()
    model[1].eval()
    torch.backends.cudnn.allow_tf32 = True
    with measuring(model, dropout=False):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        assert not torch.backends.cudnn.allow_tf32
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()
    assert torch.backends.cudnn.allow_tf32


def test_measuring_is_in_float32_under_autocast() -> None:
    model = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), measuring(model, dropout=True):
        assert model(torch.ones(1, 2)).dtype == torch.float32

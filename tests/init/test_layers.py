"""Weight layers: their pieces in weight and output."""

import pytest
import torch
from init.zoo import Maximum, OwnMaxout, in_pieces
from torch import Tensor, nn

from replicate.init import LSUVError, lsuv_
from replicate.init.layers import Call, WeightLayer, weight_layers
from replicate.init.variance import moments


def values(layer: WeightLayer, output: object) -> list[Tensor]:
    return layer.values(Call((), {}, output, lambda: output))


def test_pieces_are_slices_of_weight_bias_and_output() -> None:
    conv = in_pieces(nn.Conv2d(2, 6, 3), 3)
    layer = WeightLayer("conv", conv)
    for piece in range(3):
        layer.weight(piece).fill_(piece)
        layer.bias(piece).fill_(10 * piece)
    # unit u, piece p is output channel u·3 + p
    assert conv.weight.data[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1, 2]
    assert conv.bias.data.tolist() == [0, 10, 20, 0, 10, 20]
    output = torch.stack([torch.tensor([1.0, 2.0, 3.0, -1.0, -2.0, -3.0])] * 4)[:, :, None, None]
    assert [moments(piece).variance for piece in values(layer, output)] == [1.0, 4.0, 9.0]


def test_a_linear_layer_has_its_channels_last() -> None:
    layer = WeightLayer("linear", in_pieces(nn.Linear(3, 4), 2))
    output = torch.tensor([[[1.0, 5.0, -1.0, -5.0]] * 7] * 2)  # n t c·k
    assert [moments(piece).variance for piece in values(layer, output)] == [1.0, 25.0]


def test_the_maximum_belongs_into_a_module_of_its_own() -> None:
    class Inside(OwnMaxout):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).unflatten(-1, (-1, self.pieces)).amax(-1)

    with pytest.raises(LSUVError, match="maxout layer '0' returns 4 channels, not all its pieces' 8"):
        lsuv_(nn.Sequential(Inside(3, 4, 2)), torch.randn(8, 3))


def test_layers_without_tensors_are_named() -> None:
    class Odd(nn.Linear):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": super().forward(x)}

    with pytest.raises(LSUVError, match="layer '0' returns no tensor but dict"):
        lsuv_(nn.Sequential(Odd(3, 4)), torch.randn(8, 3))


def test_embeddings_norms_and_activations_are_no_weight_layers() -> None:
    model = nn.Sequential(nn.Embedding(4, 3), nn.LayerNorm(3), nn.PReLU(), Maximum(3), nn.LSTM(3, 3), nn.BatchNorm1d(3))
    assert weight_layers(model) == []


def test_projections_of_attention_are_weight_layers() -> None:
    names = [layer.name for layer in weight_layers(nn.TransformerEncoderLayer(8, 2, 16))]
    assert names == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]
    assert [layer.name for layer in weight_layers(nn.MultiheadAttention(8, 2))] == ["in_proj", "out_proj"]

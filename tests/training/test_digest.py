"""The digest of weights: by hand, and what does not count."""

import hashlib
import struct

import torch
from torch import nn

from replicate.training.digest import weights_sha256


def test_it_is_over_names_types_shapes_and_bytes() -> None:
    net = nn.Linear(2, 1)
    net.load_state_dict({"weight": torch.tensor([[1.0, -2.0]]), "bias": torch.tensor([0.5])})
    content = b"weight torch.float32 [1, 2]\n" + struct.pack("<2f", 1, -2)
    content += b"bias torch.float32 [1]\n" + struct.pack("<f", 0.5)
    assert weights_sha256(net) == hashlib.sha256(content).hexdigest()


def test_the_layout_in_memory_does_not_count_but_a_bit_does() -> None:
    net = nn.Conv2d(3, 4, 3)
    before = weights_sha256(net)
    assert weights_sha256(net.to(memory_format=torch.channels_last)) == before
    with torch.no_grad():
        weight = net.weight.view(torch.int32)
        weight[3, 2, 1, 0] ^= 1
    assert weights_sha256(net) != before


def test_types_that_numpy_does_not_know() -> None:
    net = nn.Linear(2, 1)
    assert weights_sha256(net.bfloat16()) != weights_sha256(net.half())
    assert len(weights_sha256(nn.BatchNorm1d(3))) == 64  # its counter has no axis

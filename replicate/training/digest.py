"""A digest of a net's weights, by which two runs are compared bit by bit without keeping the weights."""

import hashlib

import torch
from torch import nn


def weights_sha256(net: nn.Module) -> str:
    """Sha256 (hexadecimal) over the state dict in its order: of each tensor its name, dtype, shape and bytes.

    The bytes are those of the dense row-major tensor on the CPU, so neither the device nor the memory format counts.
    """
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        plain = tensor.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())  # NumPy knows no bfloat16
    return digest.hexdigest()

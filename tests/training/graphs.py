"""A CUDA graph in a test: prepared but not used, and a capture imitated on the CPU."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from replicate.training.cuda_graph import CudaGraph
from replicate.training.module import Classifier
from replicate.training.static_buffers import StaticBuffers


def prepared(module: Classifier, images: Tensor, labels: Tensor, length: int, fused: bool | None = None) -> CudaGraph:
    """A graph that has been checked on a chunk, but not used yet."""
    optimizer = module.configure_optimizers()
    for group in optimizer.param_groups:
        group["fused"] = fused  # True: as on a GPU, because the loop over the weights would read the learning rate
    graph = CudaGraph()
    graph.buffers = StaticBuffers(images, labels, length, length)
    graph.buffers.fill(images, labels)
    graph.replay = graph.prepare(module, optimizer, length)
    return graph


class Recorder(TorchDispatchMode):
    """Imitates a capture: it records the operations and the addresses of their tensors, and nothing that Python does.

    Refuses what a graph cannot hold: the host reading from the device, and tensors made from the host's numbers.
    """

    REFUSED = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "lift_fresh", "masked_select", "_unique2")

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.REFUSED, f"{name} cannot be captured"
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = [leaf.detach() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            self.operations.append((func, args, kwargs or {}, made))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, places in self.operations:
            made = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for place, tensor in zip(places, made, strict=True):
                if place.data_ptr() != tensor.data_ptr():
                    place.copy_(tensor)

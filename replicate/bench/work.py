"""What an iteration asks of a device: arithmetic, memory traffic, kernels. Counted, not timed."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from replicate.nn.fitnet import INPUT_CHANNELS
from replicate.training.module import Classifier


@dataclass(frozen=True, slots=True)
class Work:
    """Work of one training iteration.

    Args:
        operations: floating-point operations of convolutions and linear layers: 3 passes of 2 a multiply-add.
        kernels: tensor operations that compute or move something; each is a kernel on a GPU, or several.
        traffic: bytes that these operations read and write, each for itself: what fusing them would save is in it.
    """

    operations: int
    kernels: int
    traffic: int


def iteration_work(model: Classifier, batch_size: int, precision: str) -> Work:
    """Count one iteration: forward, loss, backward and the optimiser's step. The model stays as it is.

    Args:
        model: on its device.
        batch_size: images, 32×32.
        precision: of the Run; with `bf16-mixed` under autocast.
    """
    model = _alone(model)
    first = next(model.net.parameters())
    shape = (batch_size, INPUT_CHANNELS, 32, 32)
    images = torch.ones(shape, device=first.device, dtype=first.dtype)  # what they show does not matter
    labels = torch.zeros(batch_size, dtype=torch.int64, device=first.device)
    optimizer = model.configure_optimizers()
    with torch.random.fork_rng():
        for _ in range(2):  # the first makes the momentum, which later ones find
            with _Counter() as counter:
                optimizer.zero_grad()
                with torch.autocast(first.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
                    loss = model.step((images.contiguous(memory_format=torch.channels_last), labels), "train")
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        adds = multiply_adds(model.net)
    return Work(3 * 2 * adds * batch_size, counter.kernels, counter.traffic)


def _alone(model: Classifier) -> Classifier:
    """Copy what is trained and how; not the steps, for a captured graph cannot be copied."""
    return Classifier(copy.deepcopy(model.net), model.run).train()


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that are carried out within, but for views, which touch no data."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernels = self.traffic = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.kernels += 1
            touched = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.traffic += sum(tensor.numel() * tensor.itemsize for tensor in touched)
        return out


def multiply_adds(net: nn.Module) -> int:
    """Multiply-adds of the convolutions and linear layers in one image's forward pass."""
    total = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += module.get_parameter("weight").numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

    handles = [m.register_forward_hook(add) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    first = next(net.parameters())
    with torch.no_grad():
        net(torch.zeros(1, INPUT_CHANNELS, 32, 32, device=first.device, dtype=first.dtype))
    for handle in handles:
        handle.remove()
    return total

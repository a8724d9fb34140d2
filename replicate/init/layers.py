"""Weight layers as the initialisations see them: their pieces, their order in the forward pass, their variances."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# Batch normalisation, embeddings and the like have weights too, but no pre-activation that their scale is meant to set.
WEIGHT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class WeightLayer:
    """A linear or convolutional layer, or a maxout layer: one with an integer attribute `pieces` above 1.

    Args:
        name: the module's name in its model.
        module: has `weight` (pieces·out, in, …) and perhaps `bias`.
    """

    name: str
    module: nn.Module

    @property
    def pieces(self) -> int:
        """Linear pieces of a maxout layer, else 1."""
        return int(getattr(self.module, "pieces", 1))

    def weight(self, piece: int) -> Tensor:
        """View of the weight of one piece: (out, in, …). Writing to it changes the layer."""
        weight = self.module.get_parameter("weight").data
        return torch.unflatten(weight, 0, (-1, self.pieces))[:, piece]  # out·k in … -> out k in … -> out in …

    def zero_bias_(self) -> None:
        """Set the bias to zero, where there is one."""
        if getattr(self.module, "bias", None) is not None:
            self.module.get_parameter("bias").data.zero_()

    def variances(self, output: Tensor) -> list[float]:
        """Biased variance of each piece's pre-activation over all its values, in float32.

        Args:
            output: what the layer's forward returned: (n, pieces·out, …), for linear layers (…, pieces·out).
        """
        channels = output.ndim - 1 if isinstance(self.module, nn.Linear) else 1
        pieces = torch.unflatten(output.detach().float(), channels, (-1, self.pieces))
        # Squares that overflow float32 belong to a net that has exploded: that is a finding, not an error.
        return [float(pieces.select(channels + 1, p).var(correction=0)) for p in range(self.pieces)]


def weight_layers(model: nn.Module) -> list[WeightLayer]:
    """Every weight layer of the model, in the order of registration."""
    return [WeightLayer(name, module) for name, module in model.named_modules() if isinstance(module, WEIGHT_LAYERS)]


def forward_order(model: nn.Module, batch: Tensor) -> list[WeightLayer]:
    """The weight layers that a forward pass reaches, in the order of their first call."""
    called: list[WeightLayer] = []

    def note(layer: WeightLayer, _: Tensor) -> None:
        if layer not in called:
            called.append(layer)

    with hooked(weight_layers(model), note):
        model(batch)
    return called


def preactivation_variances(model: nn.Module, batch: Tensor) -> dict[tuple[str, int], float]:
    """Variance of every pre-activation in one forward pass, by the layer's name and piece."""
    found: dict[tuple[str, int], float] = {}

    def measure(layer: WeightLayer, output: Tensor) -> None:
        for piece, variance in enumerate(layer.variances(output)):
            found.setdefault((layer.name, piece), variance)

    with hooked(weight_layers(model), measure):
        model(batch)
    return found


class _ReachedError(Exception):
    """Ends a forward pass at the layer whose output was wanted."""


def variances_at(model: nn.Module, layer: WeightLayer, batch: Tensor) -> list[float]:
    """Variance of each piece of one layer at its first call. The forward pass goes no further than that layer."""
    found: list[float] = []

    def measure(layer: WeightLayer, output: Tensor) -> None:
        found.extend(layer.variances(output))
        raise _ReachedError

    with hooked([layer], measure), contextlib.suppress(_ReachedError):
        model(batch)
    return found


@contextlib.contextmanager
def hooked(layers: list[WeightLayer], see: Callable[[WeightLayer, Tensor], None]) -> Iterator[None]:
    """Show each layer's output to `see` right after the layer's forward, before anything in place can change it."""
    handles: list[RemovableHandle] = []
    try:
        for layer in layers:

            def hook(_module: nn.Module, _inputs: object, output: Tensor, layer: WeightLayer = layer) -> None:
                see(layer, output)

            handles.append(layer.module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def measuring(model: nn.Module, dropout: bool) -> Iterator[None]:
    """Forward passes in here run in plain float32, without gradients, with dropout as told; all is put back after.

    Autocast and TF32 are off, whatever the precision of training, so that an initialisation does not depend on it.
    """
    training = {module: module.training for module in model.modules()}
    tf32, matmul = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    device = next(model.parameters()).device.type
    try:
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        model.train(dropout)
        with torch.no_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(matmul)
        for module, flag in training.items():
            module.training = flag

"""LSUV in its plainest form: one full forward pass per measurement. It shares no code with the package."""

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, *CONVS, nn.MultiheadAttention)
Key = tuple[str, int]


def variances(model: nn.Module, args: tuple[Tensor, ...]) -> dict[Key, float]:
    """Biased variances, in double, at the first call of each layer and piece, in the order of the calls."""
    seen: dict[Key, float] = {}

    def note(name: str, values: list[Tensor]) -> None:
        for piece, value in enumerate(values):
            y = value.detach().double()
            seen.setdefault((name, piece), float(((y - y.mean()) ** 2).mean()))

    def hook(name: str, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        if isinstance(layer, nn.MultiheadAttention):
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            weights = zip(("query", "key", "value"), attention_weights(layer), strict=True)
            values = [F.linear(given[which], weight) for which, weight in weights]
            if layer.in_proj_weight is not None:
                note(f"{name}.in_proj", values)
            else:
                for letter, value in zip("qkv", values, strict=True):
                    note(f"{name}.{letter}_proj", [value])
            note(f"{name}.out_proj", [output[0]])
        else:
            pieces = getattr(layer, "pieces", 1)
            channels = output.ndim - (layer.weight.ndim - 1 if isinstance(layer, CONVS) else 1)
            note(name, [output.movedim(channels, 0)[piece::pieces] for piece in range(pieces)])

    handles = [
        layer.register_forward_hook(partial(hook, name), with_kwargs=True)
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS) or (hasattr(layer, "pieces") and hasattr(layer, "weight"))
    ]
    model(*[x.clone() for x in args])  # with gradients: without them, attention may take a path without calls
    for handle in handles:
        handle.remove()
    return seen


def attention_weights(layer: nn.MultiheadAttention) -> list[Tensor]:
    if layer.in_proj_weight is not None:
        return list(layer.in_proj_weight.split(layer.embed_dim))
    return [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]


def weight_of(model: nn.Module, key: Key) -> Tensor:
    """View of the rows of a weight that make one piece. Writing to it changes the model."""
    name, piece = key
    owner, _, own = name.rpartition(".")
    if own == "in_proj":
        return attention_weights(model.get_submodule(owner))[piece].detach()
    if own in ("q_proj", "k_proj", "v_proj"):
        return model.get_parameter(f"{name}_weight").detach()
    layer = model.get_submodule(name)
    pieces, weight = getattr(layer, "pieces", 1), layer.weight.detach()
    return weight[:, piece::pieces] if isinstance(layer, CONVS[3:]) else weight[piece::pieces]


def lsuv(model: nn.Module, args: tuple[Tensor, ...], tol: float = 0.02) -> None:
    """Divide weights by the root of the variance of their outputs, first layer first, until it is 1."""
    model.eval()
    for key in variances(model, args):
        for _ in range(20):
            variance = variances(model, args)[key]
            if abs(variance - 1) <= tol:
                break
            weight_of(model, key).div_(variance**0.5)

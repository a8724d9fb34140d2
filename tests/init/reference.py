"""LSUV in its plainest form: a full forward pass for each look, layer by layer. It shares no code with the package."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LINEAR = (nn.Linear, nn.Bilinear)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Key = tuple[str, int]


def outputs(model: nn.Module, args: tuple[Tensor, ...]) -> Iterator[tuple[Key, Tensor]]:
    """Pre-activations at the first call of each layer and piece, in the order of the calls, by plain hooks."""
    seen: list[tuple[Key, Tensor]] = []
    handles = []

    def note(name: str, values: list[Tensor]) -> None:
        if (name, 0) not in [key for key, _ in seen]:
            seen.extend(((name, p), value.detach().clone()) for p, value in enumerate(values))

    def hook_layer(name: str, layer: nn.Module) -> None:
        def hook(_m: nn.Module, _i: object, output: Tensor) -> None:
            pieces = getattr(layer, "pieces", 1)
            channels = output.ndim - 1 if not isinstance(layer, CONVS) else output.ndim - layer.weight.ndim + 1
            note(
                name,
                [output.index_select(channels, torch.arange(p, output.shape[channels], pieces)) for p in range(pieces)],
            )

        handles.append(layer.register_forward_hook(hook))

    def hook_attention(name: str, layer: nn.MultiheadAttention) -> None:
        def hook(
            _m: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: tuple[Tensor, ...]
        ) -> None:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
            weights = attention_weights(layer)
            note(
                f"{name}.in_proj",
                [F.linear(given[k], w) for k, w in zip(("query", "key", "value"), weights, strict=True)],
            )
            note(f"{name}.out_proj", [output[0]])

        handles.append(layer.register_forward_hook(hook, with_kwargs=True))

    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            hook_attention(name, module)
        elif isinstance(module, (*LINEAR, *CONVS)) or (hasattr(module, "pieces") and hasattr(module, "weight")):
            hook_layer(name, module)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            model(*[x.clone() for x in args])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
    return iter(seen)


def variances(model: nn.Module, args: tuple[Tensor, ...]) -> dict[Key, float]:
    """Biased variances of all pre-activations, in double."""
    return {key: float(((y.double() - y.double().mean()) ** 2).mean()) for key, y in outputs(model, args)}


def attention_weights(layer: nn.MultiheadAttention) -> list[Tensor]:
    if layer.in_proj_weight is not None:
        width = layer.embed_dim
        return [layer.in_proj_weight[i * width : (i + 1) * width] for i in range(3)]
    return [layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight]


def weight_of(model: nn.Module, key: Key) -> Tensor:
    """The rows of a weight that make one piece; writing to the result by `scale` changes the model."""
    name, piece = key
    if name.endswith("in_proj"):
        return attention_weights(model.get_submodule(name.removesuffix(".in_proj")))[piece]
    layer = model.get_submodule(name)
    pieces = getattr(layer, "pieces", 1)
    if isinstance(layer, CONVS[3:]):
        return layer.weight[:, piece::pieces]
    return layer.weight[piece::pieces]


def lsuv(model: nn.Module, args: tuple[Tensor, ...], skip: tuple[str, ...] = (), tol: float = 0.02) -> None:
    """Divide weights by the root of the variance of their outputs, first layer first, until it is 1."""
    model.eval()
    for key in variances(model, args):
        if key[0] in skip:
            continue
        for _ in range(20):
            variance = variances(model, args)[key]
            if abs(variance - 1) <= tol:
                break
            with torch.no_grad():
                weight_of(model, key).div_(variance**0.5)

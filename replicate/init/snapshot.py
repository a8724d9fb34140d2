"""Save the values of a model's parameters and write them back."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from replicate.init import memory


class Snapshot:
    """A copy of the values that the parameters of a model have now."""

    def __init__(self, model: nn.Module) -> None:
        # A forward pass may put another tensor in the place of a parameter's.
        self._saved = {one: (one.data, memory.without_repeats(one.data).clone()) for one in model.parameters()}

    def restore(self, keep: Collection[nn.Parameter] = ()) -> None:
        """Write the values back, except those of some parameters."""
        with torch.no_grad():
            for parameter, (data, values) in self._saved.items():
                if _where(parameter) != _where(data):
                    parameter.data = data
                if parameter not in keep:
                    memory.without_repeats(parameter.data).copy_(values)

    def adopt(self, parameter: nn.Parameter) -> bool:
        """Copy what was put in the place of a parameter's `data` into its own memory, if its shape and dtype fit."""
        (data, _), new = self._saved[parameter], parameter.data
        if _where(new) == _where(data):
            return True
        parameter.data = data
        fits = (new.shape, new.dtype, new.device) == (data.shape, data.dtype, data.device)
        if fits:
            data.copy_(new)
        return fits

    def differs(self, parameter: nn.Parameter) -> bool:
        """Whether a parameter, which may hold NaN, has other values than it had."""
        now, before = memory.without_repeats(parameter.data), self._saved[parameter][1]
        return not bool(((now == before) | (now.isnan() & before.isnan())).all())


def _where(tensor: Tensor) -> tuple[object, ...]:
    address = memory.address(tensor)
    return (address, memory.place(tensor), tensor.dtype) if address else (tensor.shape, tensor.dtype)

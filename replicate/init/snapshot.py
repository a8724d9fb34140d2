"""Save the values of a model's parameters and write them back."""

from collections.abc import Collection

import torch
from torch import nn

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
                if memory.address(parameter) != memory.address(data):
                    parameter.data = data
                if parameter not in keep:
                    memory.without_repeats(parameter.data).copy_(values)

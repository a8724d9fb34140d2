"""The parameters of a model, and the weight layers that its forward passes have reached."""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from replicate.init import memory
from replicate.init.calls import Use
from replicate.init.layers import (
    Computed,
    Entry,
    LayerFilters,
    WeightLayer,
    is_matrix,
    layer_name,
    make_filter,
    make_layer,
)
from replicate.init.report import COMPUTED, FROZEN, IN_PART, NOT_REACHED, SHARED, USED_BY, LSUVError

# Uses of a parameter other than as a weight are named by the function that used it, or by one of these
OTHER_PARAMETERS = "other parameters"  # together with which a weight is computed
INPUT = "input of a layer"  # to which a weight is applied, such as learned queries
# Functions whose parameters are not weight matrices: lookup tables, terms of sums, scales of norms
EMBEDDING = {"embedding", "embedding_bag"}
NO_MATRIX = {INPUT, *EMBEDDING, "add", "radd", "iadd", "sub", "rsub", "isub", "cat", "concat", "stack", "where"}
NO_MATRIX |= {"prelu", "interpolate", "scaled_dot_product_attention"}
NO_MATRIX |= {"layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm"}
# Here a parameter is a weight matrix only if it has more axes than a lookup table, or than one factor per channel
LOOKUPS = {"getitem", "index_select", "gather"}
FACTORS = {"mul", "rmul", "imul", "div", "idiv", "itruediv", "addcmul"}


class Survey:
    """The parameters of a model, and the weight layers that its forward passes have reached so far.

    Args:
        model: any module.
        layers: which weight layers to initialise: see `lsuv_`.
        frozen: whether to initialise parameters that do not require gradients as well.

    Raises:
        LSUVError: the model or the filter is of the wrong type, or a parameter has no values yet.
    """

    def __init__(self, model: nn.Module, layers: LayerFilters = None, frozen: bool = False) -> None:
        _check_model(model)
        self.model, self.filter = model, layers
        self.selects = make_filter(layers)
        self.parameters = memory.Parameters(model)
        self.layers: dict[Hashable, WeightLayer | None] = {}
        self.other_uses: dict[nn.Parameter, str] = {}  # what parameters were used for, other than as weights
        self.excluded: dict[WeightLayer, str] = {}  # layers that LSUV cannot treat, and their status
        self.rewritten = False  # whether a forward pass has written to a parameter
        # By the first of the parameters that share memory:
        self._layers_of: dict[nn.Parameter, list[WeightLayer]] = defaultdict(list)
        self._entries: dict[nn.Parameter, list[Entry]] = {}
        self._frozen: set[nn.Parameter] = set()
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            first = self.parameters.first[parameter]
            # The owner that users know is not the list of parametrisations.
            path = re.sub(r"\.?parametrizations\.\w+\.\w+$|\.?\w+$", "", name)
            self._entries.setdefault(first, []).append(Entry(name, modules[path], parameter))
            if not (parameter.requires_grad or frozen):
                self._frozen.add(first)

    def find(
        self, use: Use, computed: Computed | None, running: list[nn.Module]
    ) -> tuple[Hashable, WeightLayer | None]:
        """Find the layer of a weight in a function call, and the key under which later passes find it again.

        Args:
            use: the weight.
            computed: how the weight was computed, unless it is a view of a parameter.
            running: the modules that are running, the innermost last.

        Returns:
            The layer is None if the weight is not of exactly one parameter, or is another form of an earlier layer.
        """
        parameter = self.parameters.find(use.weight)
        if computed:
            parameter = computed.root()
            if parameter is None:
                self.other_uses.update(dict.fromkeys(computed.roots, OTHER_PARAMETERS))
        if parameter is None or use.weight.ndim < 2 or not parameter.is_floating_point():
            return None, None
        is_other = use.weight.dtype != parameter.dtype or memory.overlaps_itself(memory.without_repeats(use.weight))
        if is_other and not computed:  # viewed as complex numbers, or through sliding windows
            return None, None
        entry = self._entry(parameter, running)
        key = entry.name, computed is not None, memory.place(use.weight)
        if key not in self.layers:
            self.layers[key] = self._new_layer(entry, parameter, use, computed)
        return key, self.layers[key]

    def _entry(self, parameter: nn.Parameter, running: list[nn.Module]) -> Entry:
        entries = self._entries[parameter]
        inner = (entry for module in reversed(running) for entry in entries if entry.module is module)
        others = (entry for entry in entries if not isinstance(entry.module, (nn.Embedding, nn.EmbeddingBag)))
        return next(inner, None) or next(others, entries[0])

    def _new_layer(
        self, entry: Entry, parameter: nn.Parameter, use: Use, computed: Computed | None
    ) -> WeightLayer | None:
        weight = entry.parameter if computed else use.weight
        layers = self._layers_of[parameter]
        others = [layer for layer in layers if memory.overlap(weight, layer.weight)]
        same = [layer for layer in others if layer.module is entry.module]
        if same:  # the same weight in another form, such as the transpose in a decoder
            if computed:  # slices of one computed weight, which have no scales of their own
                self.excluded.update(dict.fromkeys(same, COMPUTED))
            return None
        is_whole = memory.without_repeats(weight).numel() == entry.parameter.numel()
        layer = make_layer(entry, parameter, use, computed, self._biases(entry, use, weight, is_whole))
        if not is_whole:
            layer = replace(layer, name=f"{layer.name}{memory.slice_name(entry.parameter, use.weight)}")
        if layer.name in {one.name for one in self.layers.values() if one}:
            layer = replace(layer, name=entry.name)
        if others or self._is_embedding(parameter):
            layer = replace(layer, left=SHARED)
        elif self._frozen & {parameter, computed and computed.magnitude}:
            layer = replace(layer, left=FROZEN)
        layers.append(layer)
        return layer

    def _biases(self, entry: Entry, use: Use, weight: Tensor, is_whole: bool) -> list[Tensor]:
        """Return at most one bias: the one that the call adds, or the module's, which may be added later."""
        biases = [use.bias, getattr(entry.module, "bias", None) if is_whole else None]
        return [bias for bias in biases if isinstance(bias, Tensor) and self._is_own(bias, weight)][:1]

    def _is_own(self, bias: Tensor, weight: Tensor) -> bool:
        """Whether a bias may be changed: it is a parameter or a view of one, used by this layer only."""
        parameter = self.parameters.find(bias)
        if parameter is None or parameter is self.parameters.find(weight) or parameter in self._frozen:
            return False
        return len({entry.module for entry in self._entries[parameter]}) == 1

    def _is_embedding(self, parameter: nn.Parameter) -> bool:
        modules = (entry.module for entry in self._entries[parameter])
        looked_up = self.other_uses.get(parameter) in EMBEDDING
        return looked_up or any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in modules)

    def selected(self) -> list[WeightLayer]:
        """Return the layers that were reached and that the filter selects."""
        found = filter(None, self.layers.values())
        return [layer for layer in found if self.selects(layer.name, layer.module)]

    def matrices(self) -> Iterator[Entry]:
        """Yield the parameters that may hold weight matrices, each under its first name."""
        for parameter, (entry, *_) in self._entries.items():
            if self._may_be_matrix(parameter) and self.selects(layer_name(entry.name), entry.module):
                yield entry

    def _may_be_matrix(self, parameter: nn.Parameter) -> bool:
        used = self.other_uses.get(parameter)
        is_factor = used in FACTORS and not is_matrix(parameter)
        is_table = self._is_embedding(parameter) or (used in LOOKUPS and parameter.ndim < 3)
        may_be = used == OTHER_PARAMETERS or (parameter.ndim > 1 and used not in NO_MATRIX)
        return may_be and not is_factor and not is_table

    def left_over(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, status and number of values of each matrix, or part of one, that no weight layer covers."""
        for entry in self.matrices():
            parameter = entry.parameter
            claimed = sum(memory.without_repeats(layer.weight).numel() for layer in self._layers_of[parameter])
            if not parameter.is_floating_point():
                status = f"left: {parameter.dtype}"
            elif claimed:
                status = IN_PART
            else:
                status = USED_BY.format(self.other_uses[parameter]) if parameter in self.other_uses else NOT_REACHED
            if claimed < parameter.numel():
                yield layer_name(entry.name), status, parameter.numel() - claimed


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise LSUVError(f"the model is a {type(model).__name__}, not a torch.nn.Module")
    if isinstance(model, DistributedDataParallel):
        raise LSUVError("initialise the model before wrapping it: DistributedDataParallel copies rank 0's weights")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise LSUVError(f"layer {layer_name(name)!r} has no shape yet; run the model on one batch first")
        if tensor.is_meta:
            raise LSUVError(f"{name!r} is on the meta device and has no values; call model.to_empty(device=…) first")
        if tensor.is_inference():
            raise LSUVError(f"{name!r} was made in inference mode and cannot be changed; copy the model outside it")

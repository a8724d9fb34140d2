"""The parameters of a model, and the weight layers that its forward passes have reached."""

import re
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import replace

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from replicate.init.calls import Use
from replicate.init.layers import Computed, Entry, LayerFilter, WeightLayer, layer_name, make_filter, make_layer
from replicate.init.report import IN_PART, NOT_REACHED, SHARED, USED_BY, LSUVError

# Functions in which a parameter is no weight matrix: it is looked up, added, or the scale of a norm
_EMBEDDING = ("embedding", "embedding_bag")
INPUT = "input of a layer"  # to which a weight is applied, such as learned queries
_NO_MATRIX = {*_EMBEDDING, INPUT, "add", "add_", "__radd__", "__iadd__", "sub", "cat", "concat", "stack", "where"}
_NO_MATRIX |= {"layer_norm", "group_norm", "batch_norm", "instance_norm", "rms_norm", "prelu", "to", "type_as"}


class Survey:
    """The parameters of a model, and the weight layers that its forward passes have reached so far.

    Args:
        model: any module.
        layers: which weight layers to initialise: see `lsuv_`.
        frozen: whether to initialise parameters that do not require gradients, too.

    Raises:
        LSUVError: the model or the filter is of the wrong type, or a parameter has no values yet.
    """

    def __init__(
        self, model: nn.Module, layers: LayerFilter | Iterable[LayerFilter] | None = None, frozen: bool = False
    ) -> None:
        if not isinstance(model, nn.Module):
            raise LSUVError(f"the model is a {type(model).__name__}, not a torch.nn.Module")
        if isinstance(model, DistributedDataParallel):
            raise LSUVError("initialise the model before wrapping it: DistributedDataParallel copies rank 0's weights")
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if is_lazy(tensor):
                raise LSUVError(f"layer {layer_name(name)!r} has no shape yet; run the model on one batch first")
            if tensor.is_meta:
                raise LSUVError(
                    f"{name!r} is on the meta device and has no values; call model.to_empty(device=…) first"
                )
        self.model, self.filter, self.frozen = model, layers, frozen
        self.passes_filter = make_filter(layers)
        self.met: dict[nn.Parameter, str] = {}  # the first function that a parameter entered together with data
        self.layers: dict[Hashable, WeightLayer | None] = {}
        self._claims: dict[nn.Parameter, list[tuple[range, WeightLayer]]] = {}
        self._entries: dict[nn.Parameter, list[Entry]] = {}
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            # The owner that users know is not the list of parametrisations.
            path = re.sub(r"\.?parametrizations\.\w+\.\w+$|\.?\w+$", "", name)
            self._entries.setdefault(parameter, []).append(Entry(name, modules[path], parameter))
        self._by_storage: dict[int, list[nn.Parameter]] = {}
        for parameter in self._entries:
            self._by_storage.setdefault(_address(parameter), []).append(parameter)
        self._buffers = {_address(buffer) for buffer in model.buffers()}

    def parameter_of(self, tensor: Tensor) -> nn.Parameter | None:
        """Return the parameter that a tensor is, or of which it is a view."""
        address = _address(tensor)
        if address == 0:
            return tensor if isinstance(tensor, nn.Parameter) and tensor in self._entries else None
        for parameter in self._by_storage.get(address, ()):
            inside, around = _extent(tensor), _extent(parameter)
            if tensor.dtype == parameter.dtype and around.start <= inside.start and inside.stop <= around.stop:
                return parameter
        return None

    def is_buffer(self, tensor: Tensor) -> bool:
        """Whether a tensor is a buffer of the model, or a view of one."""
        return _address(tensor) in self._buffers

    def find(
        self, use: Use, computed: Computed | None, running: list[nn.Module]
    ) -> tuple[Hashable, WeightLayer | None]:
        """Find the layer of a weight in a function call, and the key under which later passes find it again.

        Args:
            use: the weight.
            computed: how the weight was computed, if it is no view of a parameter.
            running: the modules that are running, the innermost last.

        Returns:
            The layer is None if the weight is not that of a single parameter, or another form of an earlier layer's.
        """
        parameter = self.parameter_of(use.weight)
        if computed:
            parameter = computed.roots[0] if len(computed.roots) == 1 else None
        if parameter is None or not parameter.is_floating_point():
            return None, None
        entry = self._entry(parameter, running)
        view = None if computed else (use.weight.storage_offset(), use.weight.shape, use.weight.stride())
        key = entry.name, view
        if key not in self.layers:
            self.layers[key] = self._new_layer(entry, use, computed)
        return key, self.layers[key]

    def _entry(self, parameter: nn.Parameter, running: list[nn.Module]) -> Entry:
        entries = self._entries[parameter]
        inner = (entry for module in reversed(running) for entry in entries if entry.module is module)
        others = (entry for entry in entries if not isinstance(entry.module, (nn.Embedding, nn.EmbeddingBag)))
        return next(inner, None) or next(others, entries[0])

    def _new_layer(self, entry: Entry, use: Use, computed: Computed | None) -> WeightLayer | None:
        memory = _extent(entry.parameter if computed else use.weight)
        claims = self._claims.setdefault(entry.parameter, [])
        others = [layer for taken, layer in claims if taken.start < memory.stop and memory.start < taken.stop]
        if any(layer.name.partition("[")[0] == layer_name(entry.name) for layer in others):
            return None  # the same weight in another form, such as the transpose in a decoder
        whole = len(memory) == entry.parameter.numel()
        biases = [use.bias, getattr(entry.module, "bias", None) if whole else None]
        own = [bias for bias in biases if isinstance(bias, Tensor) and self.parameter_of(bias) is not None]
        layer = make_layer(entry, use, computed, own[:1], self.frozen)
        if not whole:
            layer = replace(layer, name=f"{layer.name}{_slice_name(entry.parameter, use.weight)}")
        if others or self._is_embedding(entry.parameter):
            layer = replace(layer, left=SHARED)
        claims.append((memory, layer))
        return layer

    def chosen(self) -> list[WeightLayer]:
        """Return the layers that were reached and pass the filter."""
        found = filter(None, self.layers.values())
        return [layer for layer in found if self.passes_filter(layer.name, layer.module)]

    def _is_embedding(self, parameter: nn.Parameter) -> bool:
        modules = (entry.module for entry in self._entries[parameter])
        looked_up = self.met.get(parameter) in _EMBEDDING
        return looked_up or any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in modules)

    def matrices(self) -> Iterator[Entry]:
        """Yield the parameters that may be weight matrices, each under its first name."""
        for parameter, (entry, *_) in self._entries.items():
            is_matrix = parameter.squeeze().ndim > 1 and self.met.get(parameter) not in _NO_MATRIX
            chosen = self.passes_filter(layer_name(entry.name), entry.module)
            if is_matrix and chosen and not self._is_embedding(parameter):
                yield entry

    def left_over(self) -> Iterator[tuple[str, str, int]]:
        """Yield name, status and number of values of each matrix, or rest of one, that is no weight layer."""
        for entry in self.matrices():
            parameter = entry.parameter
            rest = parameter.numel() - sum(len(memory) for memory, _ in self._claims.get(parameter, []))
            if not parameter.is_floating_point():
                status = f"left: {parameter.dtype}"
            elif rest < parameter.numel():
                status = IN_PART
            else:
                status = USED_BY.format(self.met[parameter]) if parameter in self.met else NOT_REACHED
            if rest > 0:
                yield layer_name(entry.name), status, rest

    def size(self) -> int:
        """Return the number of values of all parameters."""
        return sum(parameter.numel() for parameter in self._entries)


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has values in memory, which wrappers such as those of torch.vmap have not."""
    return tensor.numel() == 0 or _address(tensor) != 0


def _address(tensor: Tensor) -> int:
    """Address of a tensor's memory; 0 if it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def _extent(tensor: Tensor) -> range:
    """The places of its storage between which a tensor lies."""
    if tensor.numel() == 0:
        return range(tensor.storage_offset(), tensor.storage_offset())
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return range(tensor.storage_offset(), tensor.storage_offset() + last + 1)


def _slice_name(parameter: nn.Parameter, view: Tensor) -> str:
    """Write the rows of a parameter that a view holds as an index, such as [3] or [64:128]."""
    row = max(1, parameter.numel() // len(parameter))
    first, rows = (view.storage_offset() - parameter.storage_offset()) // row, max(1, view.numel() // row)
    return f"[{first}]" if view.ndim < parameter.ndim else f"[{first}:{first + rows}]"

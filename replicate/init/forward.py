"""Run forward passes of a model: the batches, and the conditions, which are all restored afterwards."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils._pytree import tree_map_only

from replicate.init import memory
from replicate.init.batches import Batches, call_model, endless, is_single_batch
from replicate.init.report import LSUVError

Forward = Callable[[nn.Module, Any], object]


class ForwardRunner:
    """Runs a model on the next batch each time it is called.

    Tensors are copied to the model's device first, so that a model that works in place does not change the batches.

    Args:
        model: the model.
        batches: one batch, a callable that makes one for each forward pass, or an iterable: see `endless`.
        forward: runs the model on a batch. None: see `call_model`.

    Attributes:
        single_batch: whether every forward pass uses the same batch.
        count: number of forward passes that were begun.
        batches: those to come.
    """

    def __init__(self, model: nn.Module, batches: Batches, forward: Forward | None = None) -> None:
        if not (forward is None or callable(forward)):
            raise LSUVError(f"forward={forward!r} is no function of model and batch")
        self.model = model
        self.forward = forward or call_model
        self.single_batch = is_single_batch(batches)
        self.count = 0
        devices = _devices(model)
        self._device = devices.pop() if len(devices) == 1 else None
        self.batches: Iterator[Any] = map(self._copy, endless(batches))

    def __call__(self) -> None:
        """Run one forward pass on the next batch.

        Raises:
            LSUVError: there is no further batch, or the model does not accept it.
        """
        batch = next(self.batches)
        torch.clear_autocast_cache()  # the model may use autocast, whose copies of the weights are out of date
        self.count_one()
        self.forward(self.model, batch)

    def count_one(self) -> None:
        """Count a forward pass that begins."""
        self.count += 1

    def _copy(self, batch: Any) -> Any:
        def copy(tensor: Tensor) -> Tensor:
            return tensor.to(self._device or tensor.device, copy=True).requires_grad_(tensor.requires_grad)

        return tree_map_only(Tensor, copy, dict(batch) if isinstance(batch, Mapping) else batch)


def _devices(model: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}


@contextlib.contextmanager
def measurement_mode(model: nn.Module, dropout: bool, generator: Generator | None = None) -> Iterator[None]:
    """Run forward passes in plain float32, eagerly and without gradients.

    Autocast and TF32 are off, so that an initialisation does not depend on the precision of training; models of other
    dtypes compute in their own. Fused attention and compiled code are off, so that hooks see every layer. Afterwards,
    also after an error, training flags, buffers (such as batch normalisation's running statistics) and precision flags
    are restored.

    Args:
        model: the model to run.
        dropout: True: training mode for every module; False: evaluation mode.
        generator: draws the weights. Unless it is None or torch's global one, torch's own random number
            generators, on the CPU and on the model's GPUs, are restored as well.
    """
    with contextlib.ExitStack() as stack:
        if generator is not None and generator is not torch.default_generator:
            gpus = [device.index for device in _devices(model) if device.type == "cuda"]
            stack.enter_context(torch.random.fork_rng(devices=gpus))
        stack.enter_context(torch.no_grad())
        _keep_modules(stack, model)
        stack.callback(model.train, model.training)  # first, because some modules change their parameters in it
        model.train(dropout)
        _use_float32(stack)
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        # Where the compiler was never imported nothing was compiled, and importing it takes seconds.
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in ("cpu", "cuda"):
            # Autocast inside the model inherits that it keeps no copies of weights, which would be out of date.
            stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        stack.callback(torch.clear_autocast_cache)
        yield


def _keep_modules(stack: contextlib.ExitStack, model: nn.Module) -> None:
    """Restore training flags and buffers when the stack closes."""
    parameters = {memory.address(parameter) for parameter in model.parameters()} - {0}
    for module in model.modules():
        stack.callback(setattr, module, "training", module.training)
        for name, buffer in module._buffers.items():
            # A forward pass may write to a buffer or put another tensor in its place.
            stack.callback(setattr, module, name, buffer)
            if buffer is None or memory.address(buffer) in parameters:
                continue
            if buffer.layout != torch.strided:  # such as the sparse matrix of a graph, which has no storage of its own
                stack.callback(buffer.copy_, buffer.clone())
                continue
            storage: Any = buffer.untyped_storage()
            stack.callback(_restore_buffer, buffer, storage.clone(), memory.place(buffer))


def _restore_buffer(buffer: Tensor, values: Any, place: memory.Place) -> None:
    """Write back the memory of a buffer, which may be expanded and which a forward pass may have resized."""
    storage: Any = buffer.untyped_storage()
    if storage.nbytes() != values.nbytes() or memory.place(buffer) != place:
        storage.resize_(values.nbytes())
        buffer.set_(storage, *place)
    storage.copy_(values)


def _use_float32(stack: contextlib.ExitStack) -> None:
    """Switch off TF32, and bfloat16 inside float32 products, until the stack closes.

    torch has two interfaces for this, and refuses to read the older one if the newer one was used to set something
    else. So the newer one is saved, and the older one where it can be read: both then agree again.
    """
    b: Any = torch.backends  # typed as modules, whose `conv`, `rnn` and `matmul` a type checker does not see
    for kind in (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul, b.mkldnn.rnn):
        stack.callback(setattr, kind, "fp32_precision", kind.fp32_precision)
    with contextlib.suppress(RuntimeError):
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    with contextlib.suppress(RuntimeError):
        stack.callback(setattr, b.cudnn, "allow_tf32", b.cudnn.allow_tf32)
    b.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    b.mkldnn.conv.fp32_precision = "ieee"

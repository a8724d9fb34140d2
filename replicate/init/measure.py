"""The conditions under which an initialisation runs a model, all of them put back afterwards."""

import contextlib
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


@contextlib.contextmanager
def measuring(model: nn.Module, dropout: bool, *, keep_rng: bool = False) -> Iterator[None]:
    """Forward passes in here run in plain float32, eagerly, without gradients, with dropout as told.

    Autocast and TF32 are off, whatever the precision of training, so that an initialisation does not depend on it;
    models of other dtypes compute in theirs. Afterwards, also after an error, all is as before: training flags, buffers
    such as batch normalisation's running statistics, precision flags.

    Args:
        model: the model to run.
        dropout: training mode for every module; False: evaluation mode.
        keep_rng: also put back torch's random number generators, of the CPU and of the model's devices.
    """
    devices = {tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())}
    with contextlib.ExitStack() as stack:
        if keep_rng:
            for kind in sorted({device.type for device in devices} - {"cpu"}) or ["cpu"]:
                # The CPU's generator is always among those that are put back.
                indices = [device.index for device in devices if device.type == kind != "cpu"]
                kwargs = {} if kind == "cpu" else {"device_type": kind}
                stack.enter_context(torch.random.fork_rng(devices=indices, **kwargs))
        stack.enter_context(_buffers_kept(model))
        stack.enter_context(_mode(model, dropout))
        stack.enter_context(_float32())
        stack.enter_context(_modules_called())
        stack.enter_context(torch.no_grad())
        for kind in {"cpu"} | {device.type for device in devices}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextlib.contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    before = {module: module.training for module in model.modules()}
    try:
        model.train(training)
        yield
    finally:
        for module, flag in before.items():
            module.training = flag


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, values in kept:
                buffer.copy_(values)
                # A forward may have put another tensor in its place; scripted modules hand out new handles each time.
                if not isinstance(module, torch.jit.ScriptModule):
                    module._buffers[name] = buffer


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """No TF32, and no bfloat16 inside float32 products.

    torch has two interfaces to this. It refuses to read the older where the newer was used to set something else, so
    the newer is what is remembered; the older is put back where it can be read, to leave both of one mind.
    """
    b: Any = torch.backends  # typed as modules, whose `conv`, `rnn` and `matmul` a type checker does not see
    kinds = (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul, b.mkldnn.rnn)
    before = [kind.fp32_precision for kind in kinds]
    tf32: bool | None = None
    matmul: str | None = None
    with contextlib.suppress(RuntimeError):
        tf32 = b.cudnn.allow_tf32
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    try:
        b.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")
        b.mkldnn.conv.fp32_precision = "ieee"
        yield
    finally:
        if tf32 is not None:
            b.cudnn.allow_tf32 = tf32
        if matmul is not None:
            torch.set_float32_matmul_precision(matmul)
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value


@contextlib.contextmanager
def _modules_called() -> Iterator[None]:
    """Make models call their modules, so that hooks see them: no fused attention, no compiled code."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        # Nothing was compiled where the compiler was never imported, and importing it takes seconds.
        if "torch._dynamo" in sys.modules:
            with torch.compiler.set_stance("force_eager"):
                yield
        else:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)

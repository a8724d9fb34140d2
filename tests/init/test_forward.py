"""The conditions of forward passes, which are restored afterwards, also if a forward pass raises."""

import contextlib
import copy

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import generator, noise, vgg
from torch import Tensor, nn

from replicate.init import initialize_, lsuv_
from replicate.init.forward import measurement_mode

X = noise(8, 2)


def test_type_errors_inside_the_model_are_not_changed() -> None:
    model = Graph(lambda m, x: m.linear(x, x), linear=nn.Linear(2, 2))
    with pytest.raises(TypeError, match="takes 2 positional arguments"):
        lsuv_(model, X)


def test_batches_that_require_gradients_still_require_them() -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        with torch.enable_grad():
            return torch.autograd.grad(m.linear(x).square().sum(), x)[0]

    assert lsuv_(Graph(run, linear=nn.Linear(2, 2)), X.clone().requires_grad_())[0].converged


class Awkward(nn.Module):
    """Mixed flags, gradients, running statistics, dropout, spectral norm, a user's hooks, a buffer that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3)
        self.normed, self.head = nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Linear(4, 2)
        self.register_buffer("last", torch.zeros(2))
        self.head.register_forward_hook(lambda _m, _i, output: output * 1.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(x))).mean((2, 3))
        y = self.head(torch.relu_(self.normed(x)))
        self.last = y.detach().mean(0)
        return y


def state(model: Awkward) -> list[object]:
    return [
        [(m.training, list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()],
        [(id(buffer), buffer.tolist()) for buffer in model.buffers()],
        [(id(p), p.data_ptr(), p.stride(), p.requires_grad) for p in model.parameters()],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        (torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist()),
    ]


@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")
@pytest.mark.parametrize(("dropout", "single"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("fails", [True, False])
def test_everything_but_weights_and_biases_is_restored(dropout: bool, single: bool, fails: bool) -> None:
    torch.manual_seed(3)
    model, x = Awkward().to(memory_format=torch.channels_last), noise(16, 3, 5, 5)
    model(x).sum().backward()
    model.conv.requires_grad_(False)
    model.norm.eval()
    # With fresh batches, the head's first call finds the layers, its second one measures it, and it is rescaled.
    calls = iter(range(99))

    def fail(*_: object) -> None:
        if fails and next(calls) == (0 if single and not dropout else 2):
            raise RuntimeError("out of memory")

    model.head.register_forward_pre_hook(fail)
    before, weights = state(model), copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="out of memory") if fails else contextlib.nullcontext():
        settings = {"dropout": dropout, "generator": generator(), "layers": ["conv", "head"], "frozen": True}
        lsuv_(model, x if single else [x], **settings)
    assert state(model) == before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == (set() if fails else {"conv.weight", "conv.bias", "head.weight", "head.bias"})


@pytest.mark.parametrize("own", [True, False])
def test_random_streams_are_restored_if_a_generator_is_given(own: bool) -> None:
    model, before = nn.Linear(4, 4), torch.get_rng_state()
    initialize_(model, "msra", noise(8, 4), generator=generator() if own else None)
    assert torch.equal(torch.get_rng_state(), before) == own


@pytest.mark.parametrize("newer", [True, False])
def test_precision_is_float32_and_the_flags_of_both_interfaces_are_restored(newer: bool) -> None:
    b = torch.backends
    kinds = (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)
    with measurement_mode(nn.Linear(1, 1), dropout=True):  # restores what this test sets
        if newer:
            b.cuda.matmul.fp32_precision = b.cudnn.conv.fp32_precision = b.mkldnn.matmul.fp32_precision = "tf32"
        else:
            b.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("medium")
        users = [kind.fp32_precision for kind in kinds]
        with torch.autocast("cpu", dtype=torch.bfloat16), measurement_mode(nn.Linear(1, 1), dropout=True):
            assert not torch.is_autocast_enabled("cpu")
            assert not {"tf32", "bf16"} & {kind.fp32_precision for kind in kinds}
        assert [kind.fp32_precision for kind in kinds] == users
        assert newer or (b.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "medium")


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_models_give_the_weights_of_uncompiled_ones(in_place: bool) -> None:
    model, x = vgg(), noise(8, 3, 6, 6)
    plain = copy.deepcopy(model)
    expected = lsuv_(plain, x, dropout=False, generator=generator())
    compiled = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    for _ in range(2):  # before and after the first compilation
        assert lsuv_(compiled, x, dropout=False, generator=generator()).rows == expected.rows
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
        assert torch.equal(compiled.eval()(x), plain.eval()(x))

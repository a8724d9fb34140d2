"""Nothing but weights and biases changes, also where a forward pass raises."""

import copy

import pytest
import torch
from init.zoo import ZOO, build, noise
from torch import Tensor, nn

from replicate.init import initialize_, lsuv_
from replicate.init.measure import measuring


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Awkward(nn.Module):
    """Mixed flags, gradients, running statistics, dropout, spectral norm, a user's hooks, a buffer that is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.normed = nn.utils.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.register_buffer("last", torch.zeros(2))
        self.fail_at: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(self.conv(x))).mean((2, 3))
        y = self.head(torch.relu_(self.normed(x)))
        self.last = y.detach().mean(0)
        return y


def state(model: Awkward) -> dict[str, object]:
    modules = dict(model.named_modules())
    return {
        "training": {name: module.training for name, module in modules.items()},
        "buffers": {name: (id(buffer), buffer.tolist()) for name, buffer in model.named_buffers()},
        "hooks": {name: (list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in modules.items()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "storage": [(id(p), p.data_ptr(), p.stride()) for p in model.parameters()],
        "flags": (
            torch.is_grad_enabled(),
            torch.backends.cudnn.allow_tf32,
            torch.get_float32_matmul_precision(),
            torch.backends.mha.get_fastpath_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "random": torch.get_rng_state().tolist(),
    }


def awkward() -> Awkward:
    torch.manual_seed(3)
    model = Awkward().to(memory_format=torch.channels_last)
    model(noise(8, 3, 5, 5)).sum().backward()
    model.conv.requires_grad_(False)
    model.norm.eval()
    model.head.register_forward_hook(lambda _m, _i, output: output * 1.0)
    return model


@pytest.mark.parametrize("dropout", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_all_is_as_before(dropout: bool, fixed: bool) -> None:
    model, x = awkward(), noise(16, 3, 5, 5)
    before = state(model)
    weights = copy.deepcopy(model.state_dict())
    lsuv_(model, x if fixed else [x], dropout=dropout, generator=generator(), layers=["conv", "head"], max_iter=2)
    assert state(model) == before
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])}
    assert changed == {"conv.weight", "conv.bias", "head.weight", "head.bias"}


@pytest.mark.parametrize("fixed", [True, False])
def test_all_is_as_before_when_a_forward_pass_raises(fixed: bool) -> None:
    model, x = awkward(), noise(16, 3, 5, 5)
    calls = iter(range(99))

    def fail(*_: object) -> None:
        if fixed or next(calls) == 2:
            raise RuntimeError("out of memory")

    model.head.register_forward_pre_hook(fail)
    before, head = state(model), model.head.weight.detach().clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        lsuv_(model, x if fixed else [x], dropout=not fixed, generator=generator(), layers=["conv", "head"])
    assert state(model) == before
    assert torch.equal(model.head.weight, head)  # the layer in hand has back what it held


def test_an_optimiser_made_before_stays_valid() -> None:
    model = nn.Linear(4, 4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    lsuv_(model, noise(16, 4))
    before = model.weight.detach().clone()
    model(noise(16, 4)).square().mean().backward()
    optimiser.step()
    assert not torch.equal(model.weight, before)


def test_a_backward_pass_through_old_weights_is_refused_by_torch() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    loss = model(noise(16, 4)).square().mean()
    lsuv_(model, noise(16, 4))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("own", [True, False])
def test_random_streams_are_put_back_if_there_is_a_generator(own: bool) -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 4))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    lsuv_(model, noise(4000, 4), generator=generator() if own else None)
    assert torch.equal(torch.get_rng_state(), before) == own
    initialize_(model, "msra", noise(4000, 4), generator=generator())
    torch.manual_seed(1)
    lsuv_(model, noise(4000, 4), generator=torch.default_generator)
    assert not torch.equal(torch.get_rng_state(), before)


def test_two_runs_with_equal_generators_agree() -> None:
    weights = []
    for _ in range(2):
        model = build("transformer")
        torch.manual_seed(2)  # of dropout
        lsuv_(model, ZOO["transformer"][1], generator=generator(5))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


def test_torchs_default_device_and_dtype_play_no_part() -> None:
    model = nn.Linear(4, 4)
    twin = copy.deepcopy(model)
    lsuv_(model, noise(16, 4), generator=generator())
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            lsuv_(twin, X16, generator=generator())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(model.weight, twin.weight)


X16 = noise(16, 4)


def test_measuring_is_in_float32_under_autocast() -> None:
    model = nn.Linear(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16), measuring(model, dropout=True):
        assert model(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.parametrize("newer", [True, False])
def test_precision_flags_of_both_interfaces_are_put_back(newer: bool) -> None:
    b = torch.backends
    kinds = (b.cudnn.conv, b.cudnn.rnn, b.cuda.matmul, b.mkldnn.conv, b.mkldnn.matmul)
    before = [kind.fp32_precision for kind in kinds]
    tf32, matmul = b.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        if newer:
            b.cuda.matmul.fp32_precision = b.cudnn.conv.fp32_precision = b.mkldnn.matmul.fp32_precision = "tf32"
        else:
            b.cudnn.allow_tf32 = True
            torch.set_float32_matmul_precision("medium")
        users = [kind.fp32_precision for kind in kinds]
        with measuring(nn.Linear(1, 1), dropout=True):
            assert not {"tf32", "bf16"} & {kind.fp32_precision for kind in kinds}
            assert not b.cudnn.allow_tf32
        assert [kind.fp32_precision for kind in kinds] == users
        if not newer:
            assert (b.cudnn.allow_tf32, torch.get_float32_matmul_precision()) == (True, "medium")
    finally:
        b.cudnn.allow_tf32 = tf32
        torch.set_float32_matmul_precision(matmul)
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value

"""16 bits, double, autocast, memory formats, CUDA: the weights end in their own dtype, the variances at 1."""

import copy
import warnings

import pytest
import torch
from init import reference
from init.zoo import noise
from torch import nn

from replicate.init import lsuv_


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16 * 36, 32),
        nn.Tanh(),
        nn.Linear(32, 8),
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("fixed", [True, False])
def test_models_of_other_dtypes(dtype: torch.dtype, fixed: bool) -> None:
    model, x = net().to(dtype), noise(32, 3, 6, 6).to(dtype)
    report = lsuv_(model, x if fixed else [x], dropout=False, generator=generator())
    assert all(parameter.dtype == dtype for parameter in model.parameters())
    assert all(row.converged for row in report)
    for variance in reference.variances(model.eval(), (x,)).values():
        assert abs(variance - 1) <= 0.02 + 1e-4


def test_16_bits_hold_the_rounded_weights_of_32() -> None:
    # However often a layer is rescaled: the rounding of one try is no input of the next.
    x = noise(64, 4).bfloat16()
    model = nn.Sequential(nn.Linear(4, 64, bias=False)).bfloat16()
    scales = iter([1.0, *[1.37, 0.61] * 8])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looks = {"average": 1, "max_iter": 15, "tol": 1e-9, "check": 0}
        lsuv_(model, lambda: x * next(scales), dropout=False, generator=generator(), **looks)
    twin = nn.Sequential(nn.Linear(4, 64, bias=False)).bfloat16()
    lsuv_(twin, x, tol=float("inf"), dropout=False, generator=generator())
    ratio = model[0].weight.detach().double() / twin[0].weight.detach().double()
    assert ((ratio / ratio.median() - 1).abs() <= 2**-7).all()  # one rounding of 8 bits, not fifteen


def test_autocast_around_the_call_changes_no_bit() -> None:
    model = net()
    twin = copy.deepcopy(model)
    lsuv_(model, noise(32, 3, 6, 6), generator=generator())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lsuv_(twin, noise(32, 3, 6, 6), generator=generator())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_channels_last_stays_channels_last() -> None:
    model = net().to(memory_format=torch.channels_last)
    x = noise(32, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    strides = [parameter.stride() for parameter in model.parameters()]
    report = lsuv_(model, x, dropout=False, generator=generator())
    assert [parameter.stride() for parameter in model.parameters()] == strides
    assert all(row.converged for row in report)
    for variance in reference.variances(model.eval(), (x,)).values():
        assert abs(variance - 1) <= 0.02 + 1e-5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda(dtype: torch.dtype) -> None:
    torch.backends.cudnn.allow_tf32 = True
    for device_of_generator in ("cpu", "cuda"):
        model = net().to("cuda", dtype)
        own = torch.Generator(device_of_generator).manual_seed(0)
        state = torch.cuda.get_rng_state()
        report = lsuv_(model.insert(0, nn.Dropout(0.1)), [noise(64, 3, 6, 6).to(dtype)], generator=own, tol=0.1)
        assert torch.equal(torch.cuda.get_rng_state(), state)
        assert torch.backends.cudnn.allow_tf32
        assert all(row.converged for row in report)

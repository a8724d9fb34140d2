"""lsuv_ and initialize_: small cases by hand, options, and every precision."""

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from init import reference
from init.zoo import generator, noise, vgg
from torch import Tensor, nn

from replicate.errors import UsageError
from replicate.init import LSUVError, LSUVWarning, initialize_, lsuv_, measure, progress


# An orthonormal 1×1 weight is ±1. Variance 1.03 has the deviation 1.0149: within 0.02 by the root, not by the variance.
@pytest.mark.parametrize(("variance", "tries"), [(4.0, 1), (1.03, 1), (1.015, 0), (0.985, 0), (0.975, 1)])
def test_the_tolerance_applies_to_the_variance_and_not_to_its_root(variance: float, tries: int) -> None:
    layer = nn.Linear(1, 1)
    (report,) = lsuv_(layer, torch.tensor([[-(variance**0.5)], [variance**0.5]]))
    assert report.variance_before == pytest.approx(variance)
    assert report.variance_after == pytest.approx(1 if tries else variance)
    assert (report.tries, report.converged, layer.bias.item()) == (tries, True, 0)
    assert abs(layer.weight.item()) == pytest.approx(variance**-0.5 if tries else 1)


@pytest.mark.parametrize(("dropout", "variance"), [(False, 1), (True, 2)])  # kept values are doubled: E[x²] = 0.5 · 2²
def test_dropout_is_active_only_on_request(dropout: bool, variance: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(50, 50))
    (report,) = lsuv_(net, noise(4000, 50), dropout=dropout, generator=generator())
    assert net.training
    assert report.variance_before == pytest.approx(variance, rel=0.02)


@pytest.mark.parametrize("pre_init", ["xavier", "msra", None])
def test_lsuv_may_start_from_other_weights(pre_init: str | None) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(10, 6)
    weight, bias = (parameter.detach().clone() for parameter in layer.parameters())
    assert lsuv_(layer, noise(64, 10), pre_init=pre_init, dropout=False)[0].converged
    assert torch.equal(layer.bias, bias if pre_init is None else torch.zeros(6))
    assert ((layer.weight / weight).std() < 1e-5) == (pre_init is None)


@pytest.mark.parametrize("batches", [noise(64, 4), [noise(64, 4)]], ids=["one pass", "fresh batches"])
def test_the_start_of_each_layer_is_reported(batches: object) -> None:
    seen: list[tuple[int, int]] = []
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    initialize_(net, "lsuv", batches, dropout=False, progress=lambda *numbers: seen.append(numbers))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown init 'lsvu'.*choose from: lsuv, orthonormal, "):
        initialize_(nn.Linear(1, 1), "lsvu", noise(2, 1))
    with pytest.raises(LSUVError, match=r"unknown pre_init 'ortho'.*choose from: orthonormal, "):
        lsuv_(nn.Linear(1, 1), noise(2, 1), pre_init="ortho")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tol", 0),
        ("tol", float("nan")),
        ("tol", "0.1"),
        ("max_iter", -1),
        ("max_iter", 2.5),
        ("average", 0),
        ("check", -1),
        ("check", None),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(LSUVError, match=rf"^{name}={value!r} is out of range; give a (whole )?number [^\n]*$"):
        lsuv_(nn.Linear(1, 1), noise(2, 1), **{name: value})


def test_numbers_of_numpy_are_numbers() -> None:
    settings = {"tol": np.float32(0.02), "max_iter": np.int64(3)}
    assert lsuv_(nn.Linear(4, 4), noise(64, 4), dropout=False, **settings)[0].converged


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dropout", "no", r"dropout='no' is no bool"),
        ("forward", 5, r"forward=5 is no function of model and batch"),
        ("where", "output", r"unknown where 'output'; choose from: preactivation, activation"),
        ("mean", float("inf"), r"mean=inf is out of range"),
        ("std", 1e-200, r"std=1e-200 is out of range; give a number from 1e-10 to 1e10"),
        ("progress", 5, r"progress=5 is no function of two numbers"),
    ],
)
def test_other_wrong_settings_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(LSUVError, match=f"^{message}"):
        lsuv_(nn.Linear(1, 1), noise(2, 1), **{name: value})


def test_a_wrong_generator_is_refused() -> None:
    with pytest.raises(LSUVError, match=r"generator=3 is no torch\.Generator"):
        lsuv_(nn.Linear(1, 1), noise(2, 1), generator=3)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("single", [True, False])
def test_dtype_and_memory_format_are_kept(dtype: torch.dtype, layout: torch.memory_format, single: bool) -> None:
    model = vgg().to(dtype, memory_format=layout)
    x = noise(32, 3, 6, 6).to(dtype).contiguous(memory_format=layout)
    before = [(parameter.dtype, parameter.stride()) for parameter in model.parameters()]
    report = lsuv_(model, x if single else [x], dropout=False, generator=generator())
    assert [(parameter.dtype, parameter.stride()) for parameter in model.parameters()] == before
    assert all(row.converged for row in report)
    assert all(abs(found - 1) <= 0.02 + 1e-4 for found in reference.variances(model.eval(), (x,)).values())


def test_16_bit_weights_are_rounded_only_once() -> None:
    # However often a layer is rescaled, the rounding of one try does not enter the next.
    x, scales = noise(64, 4).bfloat16(), iter([1.0, *[1.37, 0.61] * 8])
    settings = {"average": 1, "max_iter": 15, "tol": 1e-9, "check": 0, "dropout": False}
    model, twin = (nn.Linear(4, 64, bias=False).bfloat16() for _ in range(2))
    with pytest.warns(LSUVWarning, match="not converged"):
        (row,) = lsuv_(model, lambda: x * next(scales), generator=generator(), **settings)
    assert (row.tries, row.converged, row.status) == (15, False, "not converged")
    lsuv_(twin, x, tol=float("inf"), dropout=False, generator=generator())
    ratio = model.weight.detach().double() / twin.weight.detach().double()
    assert ((ratio / ratio.median() - 1).abs() <= 2**-7).all()  # one rounding of 8 bits, not fifteen


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device_of_generator", ["cpu", "cuda"])
def test_cuda(dtype: torch.dtype, device_of_generator: str) -> None:
    torch.backends.cudnn.allow_tf32 = True
    model, own = vgg().to("cuda", dtype), torch.Generator(device_of_generator).manual_seed(0)
    state = torch.cuda.get_rng_state()
    report = lsuv_(model.insert(0, nn.Dropout(0.1)), [noise(64, 3, 6, 6).to(dtype)], generator=own, tol=0.1)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.backends.cudnn.allow_tf32
    assert all(row.converged for row in report)


@pytest.mark.parametrize("single", [True, False])
def test_another_deviation_and_a_mean(single: bool) -> None:
    model, x = vgg(), 1 + noise(32, 3, 6, 6)
    model[2] = nn.Conv2d(6, 6, 3, padding=1, bias=False)
    report = lsuv_(model, x if single else [x], std=2.0, mean=0.5, dropout=False)
    assert all(row.converged for row in report)
    assert all(abs(found / 4 - 1) <= 0.0201 for found in reference.variances(model.eval(), (x,)).values())
    means = {row.layer: row.mean for row in report}
    assert abs(means.pop("2")) > 0.05  # it has no bias
    assert list(means.values()) == pytest.approx([0.5] * len(means), abs=0.041)
    assert model[0](x).mean().item() == pytest.approx(means["0"], abs=1e-5)


def test_a_measurement_changes_nothing() -> None:
    model, x = vgg(), noise(32, 3, 6, 6)
    model[0].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    report = measure(model, x, check=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (report.passes, report.batches) == (2, 2)
    exact = measure(model, x, dropout=False, layers="?")
    found = {
        name: variance for (name, _), variance in reference.variances(model.eval(), (x,)).items() if len(name) == 1
    }
    assert {row.layer: row.variance for row in exact} == pytest.approx(found)
    assert [row.tries for row in exact] == [None] * len(found)


def test_a_progress_bar_appears_on_a_terminal_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    lsuv_(vgg(), noise(8, 3, 6, 6))
    assert not screen.getvalue()  # no terminal
    monkeypatch.setattr(progress, "PATIENCE", 0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    lsuv_(vgg(), noise(8, 3, 6, 6))
    assert "LSUV, layer 6 of 6" in screen.getvalue()


@pytest.mark.parametrize(
    "add", [lambda m, x: x @ m.w + m.bias, lambda m, x: torch.einsum("bi,io->bo", x, m.w) + m.bias]
)
def test_a_bias_that_the_measured_product_does_not_contain_is_not_shifted(add: Callable[..., Tensor]) -> None:
    model = nn.Module()
    model.w, model.bias = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
    model.forward = lambda x: add(model, x)
    (row,) = lsuv_(model, 1 + noise(64, 4), mean=0.0, dropout=False)
    assert row.converged
    assert not model.bias.any()


def test_a_model_inside_wrappers_is_initialised_by_name() -> None:
    report = initialize_(torch.compile(nn.DataParallel(nn.Sequential(nn.Linear(4, 4)))), "xavier", noise(8, 4))
    assert [row.layer for row in report] == ["0"]


@pytest.mark.parametrize("name", ["std", "tol", "mean"])
@pytest.mark.parametrize("value", [float("nan"), 10**400, "1"])
def test_numbers_of_any_kind_are_checked(name: str, value: object) -> None:
    if (name, value) != ("tol", 10**400):  # any variance will do
        with pytest.raises(LSUVError, match=f"^{name}="):
            lsuv_(nn.Linear(1, 1), noise(2, 1), **{name: value})


@pytest.mark.parametrize("start", ["krahenbuhl", "lsuv", "other"])
def test_lsuv_starts_from_a_scheme(start: str) -> None:
    with pytest.raises(LSUVError, match=f"unknown start '{start}'"):
        initialize_(nn.Sequential(nn.Linear(3, 2)), "lsuv", torch.ones(4, 3), start=start)

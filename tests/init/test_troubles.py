"""Layers that cannot reach unit variance are restored and named, and no weight becomes NaN or infinite."""

import copy
import random
import warnings

import pytest
import torch
from init.zoo import noise
from torch import Tensor, nn

from replicate.init import LSUVError, LSUVWarning, lsuv_


class Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def three(middle: nn.Module, width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), middle, nn.Linear(width, 4), nn.Tanh(), nn.Linear(4, 4))


def finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize(
    ("middle", "status"),
    [(0.0, "zero variance"), (float("inf"), "not finite"), (float("nan"), "not finite")],
)
def test_restored_with_weights_and_biases(middle: float, status: str, fixed: bool) -> None:
    model = three(Times(middle))
    before = copy.deepcopy(model.state_dict())
    x = noise(32, 4)
    with pytest.warns(LSUVWarning, match=f"restored: {status}: 2") as caught:
        report = lsuv_(model, x if fixed else [x], dropout=False)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    by_name = {row.layer: row for row in report}
    assert (by_name["0"].status, by_name["2"].status) == ("converged", f"restored: {status}")
    assert (by_name["2"].converged, by_name["2"].tries) == (False, 0)
    assert torch.equal(model[2].weight, before["2.weight"])
    assert torch.equal(model[2].bias, before["2.bias"])
    assert finite(model)
    # Behind it the restored bias makes constant inputs, or NaN goes on: whatever comes is named.
    assert by_name["4"].status.startswith("restored") or by_name["4"].converged


def test_a_constant_output_has_no_variance_whatever_the_rounding() -> None:
    model = nn.Sequential(nn.Linear(3, 1))
    with pytest.warns(LSUVWarning, match="zero variance"):
        lsuv_(model, torch.full((1000, 3), 0.1))
    assert finite(model)


def test_a_single_value_has_no_variance() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
    weight = model[2].weight.detach().clone()
    with pytest.warns(LSUVWarning, match="a single value: 2.*larger batch"):
        report = lsuv_(model, noise(1, 4))
    assert [row.status for row in report] == ["converged", "restored: a single value"]
    assert torch.equal(model[2].weight, weight)


def test_only_the_dead_piece_of_a_maxout_layer_is_restored() -> None:
    class HalfDead(nn.Linear):
        pieces = 2

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.tensor([1.0, 0.0]).repeat(self.out_features // 2)

    torch.manual_seed(0)
    model = nn.Sequential(HalfDead(4, 6))
    before = model[0].weight.detach().clone()
    with pytest.warns(LSUVWarning, match="zero variance: 0"):
        report = lsuv_(model, noise(32, 4), dropout=False)
    assert [row.status for row in report] == ["converged", "restored: zero variance"]
    assert torch.equal(model[0].weight[1::2], before[1::2])
    assert not torch.equal(model[0].weight[0::2], before[0::2])


def test_strict_raises_after_putting_everything_back() -> None:
    model = three(Times(0.0))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LSUVError, match=r"LSUV: restored: zero variance: 2.*look for activations that died"):
        lsuv_(model, noise(32, 4), strict=True)
    assert torch.equal(model[2].weight, before["2.weight"])
    assert model.training
    assert not model[2]._forward_hooks


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_variances_outside_the_range_of_float32_are_no_trouble(scale: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = lsuv_(model, noise(64, 4) * scale, dropout=False)
    assert all(row.converged for row in report)
    assert finite(model)


def test_weights_that_its_dtype_cannot_hold_are_not_written() -> None:
    model = nn.Sequential(nn.Linear(4, 4).half())
    weight = model[0].weight.detach().clone()
    with pytest.warns(LSUVWarning, match="weights overflow: 0"):
        lsuv_(model, (noise(64, 4) * 4e-6).half(), dropout=False)  # subnormal inputs ask for weights of 250,000
    assert torch.equal(model[0].weight, weight)


def test_memory_that_was_never_written_is_nothing_to_go_back_to() -> None:
    model = three(Times(0.0))
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.warns(LSUVWarning, match="zero variance"):
        lsuv_(model, noise(32, 4))
    assert finite(model)


def test_a_weight_whose_scale_has_no_effect_is_reported() -> None:
    class Scaleless(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 3 * nn.functional.linear(x, self.weight / self.weight.norm())

    model = nn.Sequential(Scaleless(4, 4))
    with pytest.warns(LSUVWarning, match="not converged: 0"):
        (row,) = lsuv_(model, noise(32, 4), max_iter=3)
    assert (row.tries, row.converged, row.status) == (3, False, "not converged")


def test_layers_that_forward_passes_leave_out_at_random_are_waited_for() -> None:
    class Dropped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.random = nn.Linear(4, 4), nn.Linear(4, 4), random.Random(1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.second(x) if self.random.random() < 0.5 else x

    model = Dropped()
    report = lsuv_(model, [noise(64, 4)])
    assert [(row.order, row.converged) for row in report] == [(1, True), (2, True)]


def test_layers_that_are_not_reached_again_are_restored() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.calls = nn.Linear(4, 4), nn.Linear(4, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.second(self.first(x)) if self.calls == 1 else self.first(x)

    model = Once()
    weight = model.second.weight.detach().clone()
    with pytest.warns(LSUVWarning, match="not reached again: second"):
        report = lsuv_(model, [noise(64, 4)], max_iter=2)
    assert [row.status for row in report] == ["converged", "restored: not reached again"]
    assert torch.equal(model.second.weight, weight)


def test_a_weight_that_a_function_uses_before_is_found_out() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x @ self.second.weight) * 30)

    with pytest.warns(LSUVWarning, match="moved again: first"):
        report = lsuv_(Borrowed(), noise(64, 4), dropout=False)
    assert [row.converged for row in report] == [False, True] or not any(row.converged for row in report)

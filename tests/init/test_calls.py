"""Weights are found by the functions that apply them, whatever module holds them."""

from collections.abc import Callable

import pytest
import torch
from init.zoo import generator, noise
from torch import Tensor, nn
from torch.nn import functional as F

from replicate.init import lsuv_


class Applied(nn.Module):
    """Applies one parameter, and keeps the result."""

    def __init__(self, shape: tuple[int, ...], apply: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.map = nn.Parameter(noise(*shape, seed=5))
        self.bias = nn.Parameter(noise(shape[-1], seed=6))
        self.apply_map = apply

    def forward(self, x: Tensor) -> Tensor:
        self.result = self.apply_map(x, self.map)
        return self.result


def rows(weight: Tensor) -> list[Tensor]:
    return [weight]


def columns(weight: Tensor) -> list[Tensor]:
    return [weight.T]


def experts(weight: Tensor) -> list[Tensor]:
    return [one.T for one in weight]


X, TOKENS = noise(64, 6), noise(3, 40, 6)  # TOKENS: 3 experts, 40 tokens each
# name -> shape of the weight, how it is applied to which input, and its linear maps as matrices (out, in)
WAYS = {
    "linear": ((4, 6), F.linear, X, rows),
    "linear with the weight as a keyword": ((4, 6), lambda x, w: F.linear(input=x, weight=w), X, rows),
    "x @ w": ((6, 4), lambda x, w: x @ w, X, columns),
    "x @ w.T": ((4, 6), lambda x, w: x @ w.T, X, rows),
    "x @ w.t() of three axes": ((4, 6), lambda x, w: torch.matmul(x, other=w.t()), TOKENS, rows),
    "w @ x": ((4, 6), lambda x, w: w @ x.T, X, rows),
    "w @ vector": ((40, 6), lambda x, w: w @ x[0], X, rows),
    "mm": ((6, 4), lambda x, w: x.mm(mat2=w), X, columns),
    "torch.ops": ((6, 4), torch.ops.aten.mm.default, X, columns),
    "addmm with a bias": ((6, 4), lambda x, w: torch.addmm(torch.zeros(4), x, w), X, columns),
    "bmm": ((3, 6, 4), torch.bmm, TOKENS, experts),
    "baddbmm": ((3, 6, 4), lambda x, w: torch.baddbmm(torch.zeros(1), batch1=x, batch2=w), TOKENS, experts),
    "matmul of experts": ((3, 6, 4), torch.matmul, TOKENS, experts),
    "einsum": ((4, 6), lambda x, w: torch.einsum("bi,oi->bo", x, w), X, rows),
    "einsum of a list, with spaces": ((4, 6), lambda x, w: torch.einsum("b i, o i", [x, w]), X, rows),
    "einsum of experts": ((3, 6, 4), lambda x, w: torch.einsum("eti,eih->eth", x, w), TOKENS, experts),
    "einsum with ellipsis": ((4, 6), lambda x, w: torch.einsum("...i,oi->...o", x, w), TOKENS, rows),
    "einsum of two axes": (
        (6, 2, 5),
        lambda x, w: torch.einsum("bi,ihd->bhd", x, w),
        X,
        lambda w: [w.flatten(1).T],
    ),
    "einsum of dot products": ((3, 6), lambda x, w: torch.einsum("eti,ei->et", x, w), TOKENS, lambda w: [*w[:, None]]),
    "a slice": ((2, 4, 6), lambda x, w: F.linear(x, w[1]), X, lambda w: [w[1]]),
}


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_weight_is_found_however_it_is_applied(way: str, single: bool) -> None:
    shape, apply, x, maps = WAYS[way]
    model = Applied(shape, apply)
    before = model.map.detach().clone()
    report = lsuv_(model, x if single else [x], dropout=False, generator=generator())
    assert (report[0].layer, report[0].status) == ("map[1]" if way == "a slice" else "map", "converged")
    model(x)
    assert model.result.var(correction=0).item() == pytest.approx(1, abs=0.0201)
    for matrix in maps(model.map.detach()):  # orthonormal up to the factor of the rescaling
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, gram[0, 0] * torch.eye(len(gram)), atol=1e-5, rtol=0)
    assert way != "a slice" or torch.equal(model.map[0], before[0])


def test_data_that_are_added_to_a_product_do_not_count() -> None:
    model = Applied((6, 6), lambda x, w: torch.addmm(10 * x, x, w, beta=0.5))
    lsuv_(model, X, dropout=False)
    assert (model(X) - 5 * X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_bias_that_the_module_adds_itself_is_zero_as_well() -> None:
    model = Applied((6, 4), lambda x, w: x @ w + model.bias)
    lsuv_(model, X, dropout=False)
    assert not model.bias.any()


@pytest.mark.parametrize(
    ("shape", "apply", "status"),
    [
        ((64, 6), lambda x, w: x * w, "left: used by mul"),
        ((6, 5), lambda x, w: torch.tensordot(x, w, 1), "left: used by tensordot"),
        ((64, 6), lambda x, w: torch.einsum("bi,bi->bi", x, w), "left: used by einsum"),
        ((6, 6), lambda x, w: torch.einsum("bi,ii->b", x, w), "left: used by einsum"),
        ((6, 4), lambda x, w: torch.vmap(lambda one: one @ w)(x), "left: used by matmul"),
        (
            (6, 4),
            lambda x, w: torch.einsum("bi,io->bo", x.cfloat(), torch.view_as_complex(w.view(6, 2, 2))).real,
            "left: used by einsum",
        ),
        ((6, 6), lambda x, w: F.linear(w, w)[:1] + x, "left: used by linear"),
        ((16, 3), lambda x, w: F.linear(x[:, :3], w.view(-1).unfold(0, 3, 1)).sum(1), "left: used by linear"),
        ((2, 6, 4), lambda x, w: x @ w[0].mul(2).mul_(3), "left: used by mul"),
    ],
)
@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")
def test_what_is_applied_in_other_ways_is_left_and_named(
    shape: tuple[int, ...], apply: Callable[[Tensor, Tensor], Tensor], status: str
) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Applied(shape, apply))
    before = model[1].map.detach().clone()
    first, other = lsuv_(model, X, dropout=False)
    assert first.status == "converged"
    assert (other.layer, other.status) == ("1.map", status)
    assert torch.equal(model[1].map, before)

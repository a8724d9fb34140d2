"""Which parameters are weight layers, which are left as they are, and how the report names them."""

import itertools
import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import noise
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from replicate.init import LSUVWarning, lsuv_

X = noise(64, 6)


class Holder(nn.Module):
    """Holds parameters, and applies them by a function of itself and the input."""

    def __init__(self, run: Callable[["Holder", Tensor], Tensor], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.run = run
        for number, (name, shape) in enumerate(shapes.items()):
            setattr(self, name, nn.Parameter(noise(*shape, seed=number)))

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("opted_in", [True, False])
def test_frozen_weights_are_measured_and_left_unless_asked_for(opted_in: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    before = parameters(model)
    first, second = lsuv_(model, X, dropout=False, frozen=opted_in)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == ({"0.weight", "0.bias", "2.weight", "2.bias"} if opted_in else {"2.weight"})
    assert (first.status, second.status) == ("converged" if opted_in else "left: frozen", "converged")
    assert first.variance == pytest.approx(model[0](X).var(correction=0).item())


@pytest.mark.parametrize("make", [parametrizations.weight_norm, weight_norm])
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.filterwarnings("ignore:.*weight_norm")
def test_under_weight_norm_the_magnitude_is_scaled(make: Callable[..., nn.Module], single: bool) -> None:
    model = nn.Sequential(make(nn.Conv2d(3, 6, 3)), nn.ReLU(), make(nn.Linear(4, 6), dim=None))
    x = 7 * noise(16, 3, 6, 6)
    report = lsuv_(model, x if single else [x], dropout=False)
    assert [(row.layer, row.status) for row in report] == [("0", "converged"), ("2", "converged")]
    weights = [model[0](x), model(x)]
    assert all(values.var(correction=0).item() == pytest.approx(1, abs=0.0201) for values in weights)
    direction = model[0].weight_v if make is weight_norm else model[0].parametrizations.weight.original1
    gram = direction.detach().flatten(1) @ direction.detach().flatten(1).T
    torch.testing.assert_close(gram, torch.eye(6), atol=1e-5, rtol=0)  # only the magnitude was rescaled


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        spectral_norm,
        partial(prune.random_unstructured, name="weight", amount=0.5),
    ],
)
def test_other_parametrisations_are_left_and_the_other_layers_initialised(wrap: Callable[[nn.Module], object]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    wrap(model[1])
    before = parameters(model)
    first, second = lsuv_(model, X, dropout=False)
    assert (first.status, second.layer, second.status) == ("converged", "1", "left: computed from other tensors")
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name.startswith("1."))


def standardised(weight: Tensor, eps: float) -> Tensor:
    return (weight - weight.mean(1, keepdim=True)) / (weight.var(1, keepdim=True) + eps).sqrt()


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("eps", [0, 1e-12, 1e-5])
@pytest.mark.parametrize("size", [1e-6, 0.3, 1.0, 1e6])
def test_a_weight_whose_scale_has_no_effect_is_restored(single: bool, eps: float, size: float) -> None:
    model = Holder(lambda m, x: F.linear(size * x, standardised(m.weight, eps)), weight=(8, 6))
    before = model.weight.detach().clone()
    with pytest.warns(LSUVWarning, match=r"restored: scale has no effect: the model itself .*100% of the model's"):
        (row,) = lsuv_(model, X if single else [X], dropout=False, tol=1e-9)
    assert torch.equal(model.weight, before)
    assert row.tries == 1


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    "compute",
    [
        lambda w: w * 0.01,  # an equalised learning rate
        lambda w: w.double().float(),
        lambda w: torch.cat([w[:3], w[3:]]),
        lambda w: w.reshape(6, 4).t(),
    ],
)
def test_a_weight_that_answers_to_its_scale_is_normalised(compute: Callable[[Tensor], Tensor], single: bool) -> None:
    model = Holder(lambda m, x: F.linear(x[:, : compute(m.weight).shape[1]], compute(m.weight)), weight=(4, 6))
    (row,) = lsuv_(model, X if single else [X], dropout=False)
    assert row.status == "converged"
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_slices_of_a_parameter_are_layers_of_their_own() -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        query, key = m.qk.chunk(2)
        return F.linear(x, query) * F.linear(10 * x, key) + x @ m.experts[1]

    model = Holder(run, qk=(12, 6), experts=(3, 6, 6))
    report = lsuv_(model, X, dropout=False)
    names = ["qk[0:6]", "qk[6:12]", "experts[1]", "experts"]
    assert [row.layer for row in report] == names
    assert [row.status for row in report] == ["converged"] * 3 + ["left: reached in part"]
    for weight in (model.qk[:6].T, 10 * model.qk[6:].T, model.experts[1]):
        assert (X @ weight).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_weight_that_is_applied_again_transposed_is_one_layer() -> None:
    model = Holder(lambda m, x: F.linear(x, m.code).relu() @ m.code, code=(4, 6))
    (row,) = lsuv_(model, X, dropout=False)
    assert (row.layer, row.status) == ("code", "converged")
    assert F.linear(X, model.code).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_what_has_no_scale_to_set_has_no_row() -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        x = F.layer_norm(x.unflatten(0, (8, 8)) + m.positions, (8, 6), weight=m.scales)
        return F.linear(torch.cat([m.tokens.expand(8, 2, 6), x], 1), m.matrix) + F.linear(m.queries, m.matrix)[:1]

    model = Holder(run, positions=(8, 6), tokens=(2, 6), matrix=(6, 6), scales=(8, 6), queries=(10, 6))
    assert [row.layer for row in lsuv_(model, X, dropout=False)] == ["matrix"]


def test_weights_that_are_left_are_counted_and_warned_of_if_they_are_most_of_the_model() -> None:
    def model(inputs: int) -> Holder:
        return Holder(lambda m, x: F.linear(x, m.a) + (x * m.b[:1, :6]), a=(6, 6), b=(6, inputs))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lsuv_(model(6), X, dropout=False).left == 0.5
    with pytest.warns(LSUVWarning, match=r"54% of the model's parameters were left as they were: b"):
        assert lsuv_(model(7), X, dropout=False).left == pytest.approx(7 / 13)


def test_a_large_scale_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    with pytest.warns(LSUVWarning, match=r"LSUV: scaled by more than 1000: 0 \(look at the scale of the input\)$"):
        report = lsuv_(model, 1e-4 * X, dropout=False)
    assert report[0].converged
    assert report[0].scale == pytest.approx(1e4, rel=0.2)


def test_parameters_that_share_one_memory_are_told_apart() -> None:
    flat = noise(72, seed=9)
    model = Graph(lambda m, x: m.b(m.a(x)), a=nn.Linear(6, 6, bias=False), b=nn.Linear(6, 6, bias=False))
    model.a.weight.data, model.b.weight.data = flat[:36].view(6, 6), flat[36:].view(6, 6)
    report = lsuv_(model, X, dropout=False)
    assert [(row.layer, row.status) for row in report] == [("a", "converged"), ("b", "converged")]
    assert model.b.weight.data_ptr() == flat[36:].data_ptr()


def test_two_parameters_in_the_same_memory_are_one() -> None:
    model = Graph(lambda m, x: m.b(m.a(x)), a=nn.Linear(6, 6, bias=False), b=nn.Linear(6, 6, bias=False))
    model.b.weight.data = model.a.weight.data
    report = lsuv_(model, X, dropout=False)
    assert [(row.layer, row.status) for row in report] == [("a", "converged"), ("b", "shared weight")]
    assert report.left == 0
    model.b.weight.requires_grad_(False)
    before = model.a.weight.clone()
    assert lsuv_(model, X, dropout=False)[0].status == "left: frozen"
    assert torch.equal(model.a.weight, before)


def test_columns_of_a_parameter_are_layers_of_their_own() -> None:
    model = Holder(lambda m, x: F.linear(x[:, :2], m.w[:, :2]) * F.linear(x, m.w[:, 2:]), w=(4, 8))
    report = lsuv_(model, X, dropout=False)
    assert [(row.layer, row.status) for row in report] == [("w[0…]", "converged"), ("w[2…]", "converged")]
    for x, weight in ((X[:, :2], model.w[:, :2]), (X, model.w[:, 2:])):
        assert F.linear(x, weight).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_an_expanded_weight() -> None:
    model = Holder(lambda m, x: torch.bmm(3 * x.view(4, 16, 6), m.w.expand(4, -1, -1)), w=(6, 5))
    report = lsuv_(model, X, dropout=False)
    assert [(row.layer, row.status) for row in report] == [("w", "converged")]
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_only_the_bias_of_the_layer_is_set_to_zero() -> None:
    # A matrix that is called bias, an embedding of positions that addmm adds, and a bias that two layers share
    models = [
        Holder(lambda m, x: (x @ m.w) * (x @ m.bias), w=(6, 4), bias=(6, 4)),
        Holder(lambda m, x: torch.addmm(m.bias, x, m.w), w=(6, 4), bias=(64, 4)),
        Graph(lambda m, x: m.b(m.a(x)), a=nn.Linear(6, 6), b=nn.Linear(6, 6)),
    ]
    models[2].a.bias = models[2].b.bias
    for model in models:
        bias = model.bias if isinstance(model, Holder) else model.a.bias
        before = bias.detach().clone()
        report = lsuv_(model, X, dropout=False)
        assert report[0].status == "converged"
        assert bias.any()
        assert isinstance(model, Graph) or report[-1].layer == "bias" or torch.equal(bias, before)


@pytest.mark.parametrize("way", ["u[:, None] * v", "stack", "cast of a slice of a flat parameter"])
@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")
def test_weights_that_are_computed_from_vectors_are_named(way: str) -> None:
    compute = {
        "u[:, None] * v": lambda m: m.u[:, None] * m.v,
        "stack": lambda m: torch.stack([m.u, m.v]),
        "cast of a slice of a flat parameter": lambda m: m.u.double()[:6].view(1, 6).float() + m.v,
    }[way]
    model = nn.Sequential(nn.Linear(6, 6), Holder(lambda m, x: F.linear(x, compute(m)), u=(6,), v=(6,)))
    report = lsuv_(model, X, dropout=False)
    assert {row.layer: row.status for row in report} == {
        "0": "converged",
        "1.u": "left: used by other parameters",
        "1.v": "left: used by other parameters",
    }


def test_a_single_row_or_column_under_a_parametrisation_is_named_as_well() -> None:
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 1)), parametrizations.spectral_norm(nn.Linear(1, 6))
    )
    report = lsuv_(model, X, dropout=False)
    assert [row.status for row in report] == ["converged", "left: computed from other tensors"]


def test_a_cast_to_the_dtype_of_the_data() -> None:
    model = Holder(lambda m, x: F.linear(x.double(), m.w.to(x.double())), w=(4, 6))
    assert lsuv_(model, X, dropout=False)[0].status == "converged"
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_a_weight_on_a_fixed_input() -> None:
    model = Holder(lambda m, x: x + m.table[:64] @ m.w, w=(4, 6))
    model.register_buffer("table", 9 * noise(80, 4, seed=8))
    (row,) = lsuv_(model, X, dropout=False)
    assert row.status == "converged"
    assert (model(X) - X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


def test_vectors_are_no_weights() -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        return F.linear(x, m.a) * F.linear(x, m.b)[:, None] * (m.b @ x.T)[:, None] @ m.c

    model = Holder(run, a=(6, 6), b=(6,), c=(6,))
    assert [(row.layer, row.status) for row in lsuv_(model, X, dropout=False)] == [("a", "converged")]


def test_a_layer_that_is_first_reached_late_is_initialised_too() -> None:
    # The model takes its branches in turn, so the first pass reaches one of three.
    turns = itertools.cycle(range(3))
    model = Graph(
        lambda m, x: m.head(getattr(m, f"branch{next(turns)}")(x)),
        **{f"branch{i}": nn.Linear(6, 6) for i in range(3)},
        head=nn.Linear(6, 2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(model, [X], dropout=False, check=3)
    assert [row.status for row in report if row.layer != "head"] == ["converged"] * 3
    assert report.left == 0


def test_an_expert_that_gets_no_tokens_in_some_batches() -> None:
    turns = itertools.count()
    model = Graph(lambda m, x: m.b(m.a(x)[: 0 if next(turns) % 3 == 1 else 64]), a=nn.Linear(6, 6), b=nn.Linear(6, 6))
    report = lsuv_(model, [X], dropout=False)
    assert [row.status for row in report] == ["converged"] * 2
    assert all(row.variance == pytest.approx(1, abs=0.03) for row in report)


@pytest.mark.filterwarnings("ignore:.*quant")
def test_odd_parameters_do_not_stop_the_others() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model.register_parameter("sparse", nn.Parameter(torch.eye(6).to_sparse()))
    model.register_parameter("whole", nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False))
    statuses = {row.layer: row.status for row in lsuv_(model, X, dropout=False)}
    assert statuses == {"0": "converged", "1": "converged", "sparse": "not reached", "whole": "left: torch.int8"}


@pytest.mark.parametrize("single", [True, False])
def test_a_layer_whose_output_becomes_a_weight_is_left(single: bool) -> None:
    # A mixture of kernels, as in CondConv, and a hypernetwork
    def run(m: Holder, x: Tensor) -> Tensor:
        kernel = (F.linear(x, m.route).softmax(-1).mean(0, keepdim=True) @ m.kernels).view(6, 6)
        generated = F.linear(x[:1].relu(), m.hyper).reshape(4, 6)
        return F.linear(F.linear(x, kernel), generated)

    model = Holder(run, route=(3, 6), kernels=(3, 36), hyper=(24, 6))
    before = parameters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(model, X if single else [X], dropout=False)
    left = "left: its output is a weight"
    assert {row.layer: row.status for row in report} == {"route": "converged", "kernels": left, "hyper": left}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if name != "route")


@pytest.mark.parametrize("scale", [0.97, 0.99, 1.02, 1.03])
def test_a_standardised_weight_near_unit_variance_is_restored(scale: float) -> None:
    model = Holder(lambda m, x: F.linear(x, standardised(m.weight, 0)), weight=(8, 6))
    x = X * scale / model(X).std(correction=0).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        (row,) = lsuv_(model, x, dropout=False, pre_init=None, tol=1e-4)
    assert (row.status, row.tries) == ("restored: scale has no effect", 1)


def test_tables_of_which_rows_are_taken_have_no_row_and_stacks_of_matrices_have() -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        index = torch.arange(64) % 3
        return F.linear(x + m.table[index], m.w) + torch.bmm(x[:, None], m.experts[index])[:, 0]

    model = Holder(run, table=(3, 6), w=(6, 6), experts=(3, 6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        statuses = {row.layer: row.status for row in lsuv_(model, X, dropout=False)}
    assert statuses == {"w": "converged", "experts": "left: used by getitem"}


def test_parameters_that_share_values_in_another_form_are_one() -> None:
    tied = Graph(lambda m, x: m.b(m.a(x).relu()), a=nn.Linear(6, 4, bias=False), b=nn.Linear(4, 6, bias=False))
    tied.b.weight = nn.Parameter(tied.a.weight.t())
    packed = Holder(lambda m, x: F.linear(3 * x, m.packed), part=(6, 6), packed=(12, 6))
    packed.part = nn.Parameter(packed.packed.data[:6])
    flat = Holder(lambda m, x: F.linear(3 * x, m.first), flat=(72,), first=(6, 6))
    flat.first = nn.Parameter(flat.flat.data[:36].view(6, 6))
    for model, apply in ((tied, tied.a), (packed, packed), (flat, flat)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LSUVWarning)
            report = lsuv_(model, X, dropout=False)
        assert report[0].status == "converged"
        assert {row.status for row in report[1:]} <= {"shared weight", "left: reached in part"}
        assert apply(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)


@pytest.mark.parametrize("single", [True, False])
def test_slices_of_a_computed_weight_are_left(single: bool) -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        query, key = (m.w * 0.5).chunk(2)
        return F.linear(x, query) * F.linear(9 * x, key)

    model = Holder(run, w=(12, 6))
    before = model.w.detach().clone()
    with pytest.warns(LSUVWarning, match="100% of the model's parameters were left"):
        (row,) = lsuv_(model, X if single else [X], dropout=False)
    assert row.status == "left: computed from other tensors"
    assert torch.equal(model.w, before)


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: m.w + m.v * torch.randn(6, 6),  # a noisy layer
        lambda m, x: (m.w + torch.eye(6)).view(6, 6) * m.v,
        lambda m, x: torch.cat([m.w, torch.zeros(2, 6)]) * m.v.mean(),
    ],
)
def test_weights_that_are_computed_with_other_tensors_are_named(compute: Callable[[Holder, Tensor], Tensor]) -> None:
    model = nn.Sequential(nn.Linear(6, 6), Holder(lambda m, x: F.linear(x, compute(m, x)), w=(6, 6), v=(6, 6)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(model, X, dropout=False)
    assert "1.w" in {row.layer for row in report if (row.status or "").startswith("left: ")}
    assert report.left > 0.3


def test_a_generated_weight_that_is_changed_before_it_is_applied() -> None:
    def run(m: Holder, x: Tensor) -> Tensor:
        generated = torch.tanh(F.linear(x[:1], m.hyper).view(6, 6) * 0.1 + torch.eye(6))
        style = F.linear(x[:1], m.style)
        return F.linear(F.linear(x, generated), m.w * style)

    model = Holder(run, hyper=(36, 6), style=(6, 6), w=(6, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        statuses = {row.layer: row.status for row in lsuv_(model, X, dropout=False)}
    left = "left: its output is a weight"
    assert statuses == {"hyper": left, "style": left, "w": "left: used by other parameters"}


def test_layers_have_names_of_their_own() -> None:
    model = Holder(lambda m, x: m.proj(F.linear(9 * x, m.proj_weight)), proj_weight=(6, 6))
    model.proj = nn.Linear(6, 6)
    report = lsuv_(model, X, dropout=False)
    assert len({row.layer for row in report}) == 2
    assert [row.status for row in report] == ["converged"] * 2


def test_parameters_that_alternate_in_memory_are_told_apart() -> None:
    base = noise(6, 12, seed=4)
    model = Holder(lambda m, x: F.linear(F.linear(9 * x, m.even), m.odd), even=(6, 6), odd=(6, 6))
    model.even.data, model.odd.data = base[:, 0::2], base[:, 1::2]
    report = lsuv_(model, X, dropout=False)
    assert [(row.layer, row.status) for row in report] == [("even", "converged"), ("odd", "converged")]
    assert model(X).var(correction=0).item() == pytest.approx(1, abs=0.0201)

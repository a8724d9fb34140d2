"""Which layers are chosen, and which are refused by name."""

import pytest
import torch
from init.zoo import noise
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from replicate.errors import UsageError
from replicate.init import LSUVError, lsuv_


def net() -> nn.Sequential:
    torch.manual_seed(0)
    stem = nn.Sequential(nn.Conv1d(3, 4, 1), nn.ReLU(), nn.Conv1d(4, 5, 1))
    return nn.Sequential(stem, nn.Flatten(), nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 2))


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ["0.0", "0.2", "2", "4"]),
        (nn.Linear, ["2", "4"]),
        ("0.*", ["0.0", "0.2"]),
        (lambda name, module: name != "4" and module.weight.shape[0] > 4, ["0.2", "2"]),
        ([nn.Conv1d, "4"], ["0.0", "0.2", "4"]),
    ],
)
def test_by_type_pattern_or_predicate(layers: object, names: list[str]) -> None:
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = lsuv_(model, noise(16, 3, 2), layers=layers, dropout=False)
    assert [row.layer for row in report] == names
    changed = {name.rpartition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(names)


def test_a_choice_of_nothing_is_an_error() -> None:
    with pytest.raises(LSUVError, match=r"layers='decoder\.\*' chooses no weight layer"):
        lsuv_(net(), noise(16, 3, 2), layers="decoder.*")


def test_a_weight_that_an_unchosen_layer_holds_too_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    (row,) = lsuv_(model, noise(8, 3), layers="1")
    assert (row.status, row.converged) == ("shared weight", None)
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        spectral_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.5),
    ],
)
def test_parametrised_weights_are_refused_by_name(wrap: object) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    wrap(model[1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LSUVError, match="layer '1' computes its weight from other tensors"):
        lsuv_(model, noise(8, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lsuv_(model, noise(8, 3), layers="0")[0].converged


def test_parametrised_attention_is_refused_by_name() -> None:
    model = nn.MultiheadAttention(4, 2)
    parametrizations.weight_norm(model, "in_proj_weight")
    with pytest.raises(LSUVError, match="layer 'in_proj' computes its weight"):
        lsuv_(model, (noise(2, 3, 4),) * 3)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is on the meta device and has no values"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "layer '0' has no shape yet"),
        (lambda: nn.Sequential(nn.Linear(3, 3, dtype=torch.complex64)), "layer '0' has a weight of torch.complex64"),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3))), "before torch.jit.script"),
        (nn.ReLU, "no linear or convolutional layer"),
        (lambda: nn.Sequential(nn.Linear(0, 3)), "layer '0' has an empty weight"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Initializing zero-element", "ignore:.*torch.jit.script")
def test_what_cannot_be_initialised_is_refused_in_one_line(model: object, says: str) -> None:
    with pytest.raises(LSUVError, match=says) as caught:
        lsuv_(model(), noise(8, 3))
    assert "\n" not in str(caught.value)


def test_pieces_that_do_not_fit_are_refused() -> None:
    conv = nn.Conv2d(4, 6, 1, groups=2)
    conv.pieces = 2
    with pytest.raises(LSUVError, match="layer '0' cannot be cut: 6 outputs, 2 groups, 2 pieces"):
        lsuv_(nn.Sequential(conv), noise(2, 4, 3, 3))


def test_an_unknown_pre_init_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r"unknown pre_init 'ortho'.*choose from: orthonormal, "):
        lsuv_(net(), noise(16, 3, 2), pre_init="ortho")


@pytest.mark.parametrize("pre_init", ["xavier", "msra", None])
def test_other_weights_to_begin_with(pre_init: str | None) -> None:
    model = net()
    nn.init.constant_(model[2].bias, 0.25)
    kept = model[2].weight.detach().clone()
    report = lsuv_(model, noise(64, 3, 2), pre_init=pre_init, dropout=False)
    assert all(row.converged for row in report)
    ratio = model[2].weight.detach() / kept
    assert (ratio.std() < 1e-5) == (pre_init is None)
    assert model[2].bias.detach().tolist() == [0.25 if pre_init is None else 0.0] * 6

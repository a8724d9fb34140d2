"""Which layers are selected, and which are refused by name."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.distributed as dist
from compare_lsuv_cases import Graph
from init.zoo import in_pieces, noise
from torch import nn

from replicate.init import LSUVError, initialize_, lsuv_
from replicate.init.layers import layer_name


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
def test_layers_are_selected_by_type_pattern_or_predicate(layers: object, names: list[str]) -> None:
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = lsuv_(model, noise(16, 3, 2), layers=layers, dropout=False)
    assert [row.layer for row in report] == names
    changed = {name.rpartition(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(names)


def test_a_filter_that_selects_nothing_is_an_error() -> None:
    with pytest.raises(LSUVError, match=r"layers='decoder\.\*' selects no weight layer"):
        lsuv_(net(), noise(16, 3, 2), layers="decoder.*")


@pytest.mark.parametrize("layers", [3, ["0.*", 3], nn.ReLU(), lambda name: True])
def test_what_is_no_filter_is_refused(layers: object) -> None:
    with pytest.raises(LSUVError, match=r"^layers=.* is no filter; give a type of module, a pattern of names or a"):
        lsuv_(net(), noise(16, 3, 2), layers=layers)


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("weight", ""),
        ("a.0.weight", "a.0"),
        ("a.attention.in_proj_weight", "a.attention.in_proj"),
        ("a.parametrizations.weight.original0", "a"),
        ("parametrizations.in_proj_weight.original", "in_proj"),
        ("a.weight_v", "a"),
        ("weight_orig", ""),
        ("a.experts.gate_up_proj", "a.experts.gate_up_proj"),
        ("lstm.weight_ih_l0", "lstm.weight_ih_l0"),
    ],
)
def test_names_of_layers(parameter: str, layer: str) -> None:
    assert layer_name(parameter) == layer


NONE = "no linear or convolutional layer was reached by the model's forward pass: "


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "resnet18", "the model is a str, not a torch.nn.Module"),
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is on the meta device and has no values"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "layer '0' has no shape yet"),
        (lambda: torch.jit.script(nn.Linear(3, 3)), f"{NONE}initialise it before torch.jit.script"),
        (lambda: nn.Sequential(nn.BatchNorm1d(3)), f"{NONE}the model has none"),
        (lambda: Graph(lambda _, x: x, unused=nn.Linear(3, 3)), f"{NONE}unused \\(not reached\\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:.*torch.jit.script")
def test_what_cannot_be_initialised_is_refused_in_one_line(model: Callable[[], object], message: str) -> None:
    with pytest.raises(LSUVError, match=message) as caught:
        lsuv_(model(), noise(8, 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pieces", [2, 0, -1, True, "two"])
def test_an_attribute_that_happens_to_be_called_pieces_has_no_effect(pieces: object) -> None:
    (row,) = lsuv_(in_pieces(nn.Linear(3, 5), pieces), noise(64, 3), dropout=False)
    assert row.status == "converged"


def test_data_parallel_is_unwrapped() -> None:
    (row,) = lsuv_(nn.DataParallel(nn.Sequential(nn.Linear(4, 4))), noise(16, 4))
    assert (row.layer, row.converged) == ("0", True)


def test_a_model_inside_ddp_is_refused() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        for call in (lsuv_, partial(initialize_, init="xavier")):
            with pytest.raises(LSUVError, match="initialise the model before wrapping it"):
                call(model, batches=noise(16, 4))
    finally:
        dist.destroy_process_group()

"""Which layers are selected, and which are refused by name."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.distributed as dist
from compare_lsuv_cases import Graph
from init.zoo import Maximum, OwnMaxout, in_pieces, noise
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm

from replicate.init import LSUVError, initialize_, lsuv_


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


@pytest.mark.parametrize(
    "wrap", [parametrizations.spectral_norm, spectral_norm, partial(prune.identity, name="weight")]
)
def test_parametrised_weights_are_refused_by_name(wrap: object) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    wrap(model[1])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(LSUVError, match="layer '1' computes its weight from other tensors"):
        lsuv_(model, noise(8, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lsuv_(model, noise(8, 3), layers="0")[0].converged


class MaximumInside(OwnMaxout):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).unflatten(-1, (-1, self.pieces)).amax(-1)


class Dictionary(nn.Linear):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": super().forward(x)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: nn.Linear(3, 3, device="meta"), "'weight' is on the meta device and has no values"),
        (lambda: nn.LazyLinear(3), "has no shape yet"),
        (lambda: nn.Linear(3, 3, dtype=torch.complex64), "has a weight of torch.complex64"),
        (lambda: torch.jit.script(nn.Linear(3, 3)), "before torch.jit.script"),
        (lambda: nn.Sequential(Maximum(3), nn.LSTM(3, 3), nn.BatchNorm1d(3)), "no linear or convolutional layer"),
        (lambda: nn.Sequential(nn.Linear(0, 3)), "layer '0' has an empty weight"),
        (lambda: in_pieces(nn.Conv2d(4, 6, 1, groups=2), 2), "cannot be divided: 6 outputs, 2 groups, 2 pieces"),
        (lambda: parametrizations.weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"), "'in_proj' computes its"),
        (lambda: MaximumInside(3, 4, 2), "maxout layer '' returns 4 channels, not the 8 of all its pieces"),
        (lambda: nn.Sequential(Dictionary(3, 4)), "layer '0' returns dict, not a tensor"),
        (lambda: Graph(lambda _, x: x, unused=nn.Linear(3, 3)), "no linear or convolutional layer was reached"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules", "ignore:Initializing zero-element", "ignore:.*torch.jit.script")
def test_what_cannot_be_initialised_is_refused_in_one_line(model: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(LSUVError, match=message) as caught:
        lsuv_(model(), noise(8, 3))
    assert "\n" not in str(caught.value)


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

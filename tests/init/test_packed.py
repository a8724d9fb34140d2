"""Recurrent layers: each gate has unit variance at the product of its weights with the input."""

import pytest
import torch
from compare_lsuv_cases import Graph
from init.zoo import generator, noise
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from replicate.init import lsuv_

X = noise(16, 7, 5)  # batch, time, features


def assert_orthonormal(weight: Tensor) -> None:
    gram = weight.detach().T @ weight.detach()
    torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_each_gate_of_each_layer_and_direction_has_unit_variance(kind: type, gates: int, single: bool) -> None:
    model = kind(5, 6, num_layers=2, bidirectional=True, batch_first=True)
    report = lsuv_(model, X if single else [X], dropout=False, generator=generator())
    # What the second layer receives is what a network of only the first layer returns.
    first = kind(5, 6, bidirectional=True, batch_first=True)
    first.load_state_dict({name: p for name, p in model.state_dict().items() if "_l0" in name})
    inputs = {"0": X, "1": first(X)[0]}
    names = [row.layer for row in report]
    for depth, x in inputs.items():
        for direction in ("", "_reverse"):
            name = f"weight_ih_l{depth}{direction}"
            assert names.count(name) == gates
            for weight in getattr(model, name).chunk(gates):
                assert F.linear(x, weight).var(correction=0).item() == pytest.approx(1, abs=0.0201)
            for weight in getattr(model, f"weight_hh_l{depth}{direction}").chunk(gates):
                assert_orthonormal(weight)
    assert {row.status for row in report if "_hh_" in row.layer} == {"drawn: recurrent"}
    assert not any(p.any() for name, p in model.named_parameters() if "bias" in name)


def test_packed_sequences_and_projections() -> None:
    lengths = [7] * 8 + [3] * 8
    packed = pack_padded_sequence(X, lengths, batch_first=True)
    model = Graph(
        lambda m, x: m.lstm(pack_padded_sequence(x, lengths, batch_first=True))[0].data,
        lstm=nn.LSTM(5, 6, proj_size=2, bias=False),
    )
    report = lsuv_(model, X, dropout=False)
    for weight in model.lstm.weight_ih_l0.chunk(4):
        assert F.linear(packed.data, weight).var(correction=0).item() == pytest.approx(1, abs=0.0201)
    assert [row.layer for row in report if row.status == "drawn: recurrent"].count("lstm.weight_hr_l0") == 1


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind: type, gates: int, bias: bool) -> None:
    def run(m: Graph, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = m.cell(step, state)
        return state[0]

    model = Graph(run, cell=kind(5, 6, bias=bias))
    report = lsuv_(model, X, dropout=False)
    assert [row.status for row in report] == ["converged"] * gates + ["drawn: recurrent"] * gates
    for weight in model.cell.weight_ih.chunk(gates):  # at the first call
        assert F.linear(X[:, 0], weight).var(correction=0).item() == pytest.approx(1, abs=0.0201)

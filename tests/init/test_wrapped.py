"""Models inside torch.compile, DataParallel and DistributedDataParallel."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from init import reference
from init.zoo import noise, vgg
from torch import nn

from replicate.init import lsuv_

HERE = Path(__file__).parent


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_models_are_looked_into(in_place: bool, warm: bool) -> None:
    torch.manual_seed(0)
    model, x = vgg(), noise(8, 3, 6, 6)
    plain = copy.deepcopy(model)
    expected = lsuv_(plain, x, dropout=False, generator=generator())
    compiled = model if in_place else torch.compile(model, backend="eager")
    if in_place:
        model.compile(backend="eager")
    if warm:
        compiled(x)
    report = lsuv_(compiled, x, dropout=False, generator=generator())
    assert report.rows == expected.rows
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(compiled.eval()(x), plain.eval()(x))


def test_data_parallel_is_unwrapped() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    (row,) = lsuv_(nn.DataParallel(model), noise(16, 4))
    assert (row.layer, row.converged) == ("0", True)


def test_processes_of_ddp_end_with_the_same_bits(tmp_path: Path) -> None:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(HERE.parents[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, HERE / "ddp_rank.py", str(rank), tmp_path / "store", tmp_path / f"{rank}.pt"],
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        assert [process.wait(300) for process in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    assert first["fresh"] == second["fresh"]
    assert first["once"] == second["once"]
    assert first["passes"] == second["passes"]
    # The variance is that of both processes' values together.
    model = vgg_of(first["weights"]).eval()
    ys = [dict(reference.outputs(model, (result["batch"],))) for result in (first, second)]
    for layer, variance, after, _, status in first["once"]:
        together = torch.cat([y[layer, 0].flatten() for y in ys]).double().var(correction=0).item()
        assert status == "converged"
        assert abs(together - 1) <= 0.02 + 1e-5
        assert variance == pytest.approx(together, abs=1e-5)
        assert after == pytest.approx(together, abs=1e-5)


def vgg_of(weights: dict[str, torch.Tensor]) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(), nn.Linear(128, 6)
    )
    model.load_state_dict(weights)
    return model

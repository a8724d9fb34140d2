"""Models inside torch.compile, DataParallel and DistributedDataParallel."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from init.zoo import noise, vgg
from torch import nn

from replicate.init import LSUVError, initialize_, lsuv_


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


def test_ddp_is_refused_until_the_model_is_initialised() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(4, 4))
        weight = model.module.weight.detach().clone()
        for call in (lsuv_, partial(initialize_, init="xavier")):
            with pytest.raises(LSUVError, match="initialise the model first, then wrap it"):
                call(model, batches=noise(16, 4))
    finally:
        dist.destroy_process_group()
    assert torch.equal(model.module.weight, weight)

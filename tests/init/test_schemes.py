"""Each scheme against its formula. test_lsuv.py checks them through the layers of FitNet-4."""

import math

import numpy as np
import pytest
import torch
from init.zoo import generator

from replicate.init.schemes import Scheme, msra, orthonormal, orthonormal_msra, xavier

SHAPE = (64, 48, 3, 3)


def test_orthonormal_is_the_factor_of_a_normal_matrix() -> None:
    normal = torch.randn(8, 12, generator=generator()).numpy()
    _, _, right = np.linalg.svd(normal, full_matrices=False)  # another library's decomposition, up to signs
    np.testing.assert_allclose(np.abs(orthonormal((8, 12), generator()).numpy()), np.abs(right), atol=1e-5)


@pytest.mark.parametrize(
    # torch's bound for Xavier, √(6 / (fan_in + fan_out)), would be 0.0772 instead of 0.0833; MSRA ignores the slope
    ("scheme", "deviation", "kurtosis"),
    [(xavier, math.sqrt(3 / 432) / math.sqrt(3), 1.8), (msra, math.sqrt(2 / 432), 3.0)],
)
def test_xavier_is_uniform_and_msra_normal(scheme: Scheme, deviation: float, kurtosis: float) -> None:
    weight = scheme(SHAPE, generator(), 1 / 3)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)
    assert weight.std().item() == pytest.approx(deviation, rel=0.01)
    assert (weight / weight.std()).pow(4).mean().item() == pytest.approx(kurtosis, abs=0.1)


@pytest.mark.parametrize("scheme", [orthonormal, orthonormal_msra, xavier, msra])
def test_draws_come_only_from_the_generator(scheme: Scheme) -> None:
    first = scheme((6, 5), generator(3), 0.0)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):  # the default device and dtype have no effect
            second = scheme((6, 5), generator(3), 0.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first, second)
    assert not torch.equal(first, scheme((6, 5), generator(4), 0.0))

"""Each scheme against its formula. test_differential.py checks the weights of whole models."""

import numpy as np
import pytest
import torch
from init.zoo import generator

from replicate.init.schemes import Scheme, msra, orthonormal, orthonormal_msra, xavier


def test_orthonormal_is_the_factor_of_a_normal_matrix() -> None:
    normal = torch.randn(8, 12, generator=generator()).numpy()
    _, _, right = np.linalg.svd(normal, full_matrices=False)  # another library's decomposition, up to signs
    np.testing.assert_allclose(np.abs(orthonormal((8, 12), generator()).numpy()), np.abs(right), atol=1e-5)


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

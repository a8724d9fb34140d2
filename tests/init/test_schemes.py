"""Each scheme against its formula. test_differential.py checks the weights of whole models."""

import numpy as np
import pytest
import torch
from init.zoo import generator

from replicate.init.schemes import Scheme, haar_orthonormal, msra, orthonormal, orthonormal_msra, xavier


def test_orthonormal_is_the_factor_of_a_normal_matrix() -> None:
    normal = torch.randn(8, 12, generator=generator()).numpy()
    _, _, right = np.linalg.svd(normal, full_matrices=False)  # another library's decomposition, up to signs
    np.testing.assert_allclose(np.abs(orthonormal((8, 12), generator()).numpy()), np.abs(right), atol=1e-5)


@pytest.mark.parametrize("scheme", [orthonormal, haar_orthonormal, orthonormal_msra, xavier, msra])
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


def test_orthonormal_matrices_by_qr_are_drawn_uniformly() -> None:
    # An entry of a uniformly distributed n×n matrix has mean 0, variance 1/n and kurtosis 3n/(n + 2); without the
    # signs of R's diagonal, a QR decomposition gives diagonal entries that are almost all negative.
    own, n, count = generator(5), 4, 2000
    matrices = torch.stack([haar_orthonormal((n, n), own) for _ in range(count)])
    for entries in (matrices[:, 0, 0], matrices[:, 2, 1], matrices[:, 3, 3]):
        assert entries.mean().item() == pytest.approx(0, abs=4 / (n * count) ** 0.5)
        assert entries.square().mean().item() == pytest.approx(1 / n, rel=0.1)
        assert (entries**4).mean().item() * n**2 == pytest.approx(3 * n / (n + 2), rel=0.15)

"""Each scheme against its formula."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.init.schemes import SCHEMES, fan_in, msra, orthonormal, orthonormal_msra, xavier

SHAPE = (64, 48, 3, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_fan_in_counts_the_inputs_of_one_output() -> None:
    assert fan_in((32, 3, 3, 3)) == 27
    assert fan_in((500, 128)) == 128


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_orthonormal_rows_or_columns(outputs: int, inputs: int, kernel: int, seed: int) -> None:
    shape = (outputs, inputs, kernel, kernel)
    weight = orthonormal(shape, generator(seed))
    assert weight.shape == shape
    flat = weight.flatten(1).double()
    gram = flat @ flat.T if outputs <= inputs * kernel**2 else flat.T @ flat
    torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-5, rtol=0)


def test_orthonormal_is_the_factor_of_a_normal_matrix() -> None:
    normal = torch.randn(8, 12, generator=generator()).numpy()
    _, _, right = np.linalg.svd(normal, full_matrices=False)  # another library's decomposition, up to signs
    np.testing.assert_allclose(np.abs(orthonormal((8, 12), generator()).numpy()), np.abs(right), atol=1e-5)


@pytest.mark.parametrize(("slope", "factor"), [(0.0, math.sqrt(2)), (1 / 3, 1.342)])
def test_msra_scaled_orthonormal(slope: float, factor: float) -> None:
    ratio = orthonormal_msra(SHAPE, generator(), slope) / orthonormal(SHAPE, generator())
    assert ratio.median().item() == pytest.approx(factor, abs=1e-3)


def test_xavier_is_uniform_on_the_bound_of_caffe() -> None:
    weight = xavier(SHAPE, generator())
    bound = math.sqrt(3 / 432)  # torch's bound, √(6 / (fan_in + fan_out)), would be 0.0772 instead of 0.0833
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.999 * bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.002)


def test_msra_is_normal_with_fan_in() -> None:
    weight = msra(SHAPE, generator(), 1 / 3)  # the slope is not corrected for
    assert weight.std().item() == pytest.approx(math.sqrt(2 / 432), rel=0.01)
    kurtosis = (weight / weight.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("name", SCHEMES)
def test_draws_come_from_the_generator_alone(name: str) -> None:
    torch.manual_seed(1)
    first = SCHEMES[name]((6, 5), generator(3), 0.0)
    torch.manual_seed(2)
    assert torch.equal(first, SCHEMES[name]((6, 5), generator(3), 0.0))
    assert not torch.equal(first, SCHEMES[name]((6, 5), generator(4), 0.0))
    assert first.dtype == torch.float32

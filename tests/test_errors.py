"""Hints in messages, and which failures are transient."""

import errno

import pytest
import torch

from replicate.errors import SYNONYMS, RankFailedError, transient_kind, unknown
from replicate.names import ACTIVATIONS, INITS
from replicate.run import TYPES


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("learning_rate", " (did you mean 'lr'?)"),
        ("max-epochs", " (did you mean 'iterations'?)"),
        ("momentun", " (did you mean 'momentum'?)"),
        ("kaiming", ""),  # an initialisation and no setting
        ("xyz", ""),
    ],
)
def test_what_was_meant_is_suggested(name: str, hint: str) -> None:
    assert str(unknown("key", name, TYPES)).startswith(f"unknown key {name!r}{hint}; choose from: init, activation")


def test_a_synonym_means_something_that_there_is() -> None:
    assert set(SYNONYMS.values()) <= {*TYPES, *INITS, *ACTIVATIONS}
    assert "did you mean 'xavier'?" in str(unknown("init", "Glorot", INITS))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
        (torch.AcceleratorError("unspecified launch failure"), "CUDA error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "CUDA error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), "out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("No space left on device"), None),
        (RankFailedError("rank 1 of 2 died", "killed"), "killed"),
        (RankFailedError("rank 1 of 2 failed", None), None),
    ],
)
def test_what_is_transient(error: Exception, kind: str | None) -> None:
    assert transient_kind(error) == kind


def test_torchs_own_failure_to_get_memory_is_transient() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert transient_kind(caught.value) == "out of memory"

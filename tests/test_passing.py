"""What may pass, and what is the run's own fault."""

import errno

import pytest
import torch

from replicate.passing import ElsewhereError, passing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EFBIG, "File too large"), "disk"),
        (OSError(errno.EROFS, "Read-only file system"), "disk"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory"),
        (torch.AcceleratorError("unspecified launch failure"), "CUDA error"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "CUDA error"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."), "out of memory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), None),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("No space left on device"), None),
        (ElsewhereError("rank 1 of 2 died", "killed"), "killed"),
        (ElsewhereError("rank 1 of 2 failed", None), None),
    ],
)
def test_what_may_pass(error: Exception, kind: str | None) -> None:
    assert passing(error) == kind


def test_torchs_own_failure_to_get_memory_may_pass() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert passing(caught.value) == "out of memory"

"""What may pass: failures that are not the run's own fault, so that another attempt may do better."""

import errno
import sys

KILLED, MEMORY, CUDA, DISK = KINDS = ("killed", "out of memory", "CUDA error", "disk")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


class ElsewhereError(Exception):
    """A failure in another process of the same run.

    Args:
        message: what happened there.
        kind: one of KINDS; None: the run's own fault.
    """

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


def passing(error: BaseException) -> str | None:
    """Say which of KINDS an exception is; None: the run's own fault, which another attempt would only repeat."""
    if isinstance(error, ElsewhereError):
        return error.kind
    if isinstance(error, OSError):
        return DISK if error.errno in DISK_ERRORS else MEMORY if error.errno == errno.ENOMEM else None
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, RuntimeError):
        return _of_torch(error)
    return None


def _of_torch(error: RuntimeError) -> str | None:
    """By type where there is one; the libraries below torch, and its allocator of CPU memory, have none."""
    torch, text = sys.modules.get("torch"), str(error)  # an error of torch's is raised by a torch that is loaded
    types = (torch.OutOfMemoryError, torch.AcceleratorError) if torch else (type(None), type(None))
    if isinstance(error, types[0]) or "can't allocate memory" in text or "_STATUS_ALLOC_FAILED" in text:
        return MEMORY
    return (
        CUDA if isinstance(error, types[1]) or text.startswith(("CUDA error", "cuDNN error", "CUDA driver")) else None
    )

"""The schema of `predictions.npz`: the class that a finished run predicts for each test image."""

import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replicate.store.result import BadRecordError

MAX_BYTES = 16_000_000  # of the file, and of each array in it; 10,000 images take about 10,000
DTYPES = (np.uint8, np.uint16)  # of the classes; the second one for more than 256 of them

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a run predicts at its last iteration; its test accuracy counts the right ones.

    Args:
        classes: predicted class of each test image (n,), in the data set's order.
        labels_sha256: digest of the true classes, from `labels_sha256`.
    """

    classes: npt.NDArray[np.unsignedinteger]
    labels_sha256: str

    def correct(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Whether each test image is classified correctly (n,).

        Args:
            labels: true classes of the test images (n,).

        Raises:
            BadRecordError: the run was tested on other labels.
        """
        if labels_sha256(labels) != self.labels_sha256 or labels.shape != self.classes.shape:
            raise BadRecordError("the predictions are for other labels")
        right: npt.NDArray[np.bool_] = self.classes == labels
        return right

    def to_npz(self) -> bytes:
        """The content of `predictions.npz`: the arrays `classes` and `labels_sha256`, for `numpy.load`."""
        dtype = next(one for one in DTYPES if self.classes.max(initial=0) <= np.iinfo(one).max)
        file = io.BytesIO()
        np.savez(file, classes=self.classes.astype(dtype), labels_sha256=np.array(self.labels_sha256))
        return file.getvalue()


def parse_predictions(content: bytes) -> Predictions:
    """Read the content of a `predictions.npz`, which may be torn or something else.

    Raises:
        BadRecordError: it is no file of this schema.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            classes, digest = (_array(archive, name) for name in ("classes", "labels_sha256"))
        if classes.ndim != 1 or classes.dtype not in DTYPES or digest.ndim or digest.dtype != np.dtype("<U64"):
            raise ValueError("wrong types of arrays")
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds for a damaged file
        raise BadRecordError(f"not a file of predictions: {error}") from None
    return Predictions(classes, str(digest))


def _array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    """Read an array; `numpy.load` would allocate whatever size a header claims."""
    with archive.open(f"{name}.npy") as packed:
        file = io.BytesIO(packed.read(MAX_BYTES))
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError(f"{name} has another format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return np.frombuffer(file.read(), dtype).reshape(shape)


def labels_sha256(labels: Labels) -> str:
    """Sha256 (hexadecimal) of the classes as little-endian int64."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()

"""What a training measures: the schemas of `curve.csv`, `layers.json` and `predictions.npz`."""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from replicate.errors import explain
from replicate.field_types import STRICT
from replicate.store.fields import MAX_COUNT, MAX_ENTRIES, MAX_NUMBER, Count, Line, Size, check_digest
from replicate.store.files import MAX_BYTES
from replicate.store.result import BadRecordError
from replicate.store.run_folder import LAYERS, PREDICTIONS, RunFolder

# One row per evaluation of the test set. Accuracies are in %, losses in nats. The training columns are means since the
# previous row, with dropout and augmentation; the test columns are of the plain test images without dropout (see the
# settings `ema` and `test_mirror`).
COLUMNS = ("iteration", "epoch", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy")

LAYERS_SCHEMA = 1
CLASS_DTYPES = (np.uint8, np.uint16)  # the second one for more than 256 classes
MAX_ROWS = 100_000  # of a curve; the paper's protocol makes 231

Row = dict[str, float]
Labels = npt.NDArray[np.int64]
LabelsOf = Callable[[str, int], Labels]  # of the images that runs with this dataset and validation are tested on


def curve_csv(rows: Iterable[Mapping[str, float]]) -> str:
    """The content of `curve.csv`.

    Args:
        rows: each with the keys COLUMNS, in this order.
    """
    lines = [",".join(COLUMNS), *(",".join(f"{value:.10g}" for value in row.values()) for row in rows)]
    return "".join(f"{line}\n" for line in lines)


def read_curve(folder: RunFolder, metrics: Collection[str]) -> dict[str, dict[int, float]]:
    """Read columns of a `curve.csv`, which may be missing, cut off or something else.

    Args:
        folder: of the run.
        metrics: names of the columns.

    Returns:
        metric -> iteration -> value, of each whole row of the first MAX_ROWS.
    """
    curves: dict[str, dict[int, float]] = {metric: {} for metric in metrics}
    try:
        text = io.StringIO((folder.curve_bytes() or b"").decode(), newline="")
        rows = list(islice(csv.DictReader(text), MAX_ROWS))
    except (UnicodeDecodeError, csv.Error):
        return curves
    for row in rows:
        for metric, curve in curves.items():
            try:
                iteration, value = float(row["iteration"]), float(row[metric])
            except (KeyError, TypeError, ValueError):
                continue  # a row that was cut off
            if 0 <= iteration <= MAX_COUNT and iteration.is_integer() and abs(value) <= MAX_NUMBER:
                curve[int(iteration)] = value
    return curves


@dataclass(frozen=True, slots=True, config=STRICT)
class Layer:
    """One weight layer, or one piece of a maxout layer, at one iteration. A number that float32 cannot hold is None."""

    name: Line
    piece: Count  # index of the maxout piece, else 0
    variance: Size | None  # biased, of all values of the pre-activation on a fixed batch
    gradient_norm: Size | None  # L2 norm of the mean loss's gradient with respect to the weight
    # Of the weight as a matrix (out, fan_in), in descending order
    singular_values: Annotated[tuple[Size | None, ...], Field(max_length=MAX_ENTRIES)]
    # See `activation_statistics`; None: no activation follows the layer, or the file is older than these two
    saturated: Size | None = None
    dead: Size | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class Snapshot:
    """The layers of a net, in the order of the forward pass, after `iteration` steps; 0 is after initialisation."""

    iteration: Count
    layers: Annotated[tuple[Layer, ...], Field(max_length=MAX_ENTRIES)]


@with_config(ConfigDict(strict=True, allow_inf_nan=False))
class _LayersFile(TypedDict):
    schema: Count
    run_id: Line
    fingerprint: Line
    moments: Annotated[tuple[Snapshot, ...], Field(max_length=MAX_ENTRIES)]


_LAYERS_FILE = TypeAdapter(_LayersFile)
SNAPSHOTS = TypeAdapter(tuple[Snapshot, ...])  # converts snapshots to plain data and back


def layers_json(run_id: str, fingerprint: str, snapshots: tuple[Snapshot, ...]) -> str:
    """The content of `layers.json`.

    Args:
        run_id: of the run.
        fingerprint: of the data.
        snapshots: in ascending order of their iterations.
    """
    moments = SNAPSHOTS.dump_python(snapshots)
    content = {"schema": LAYERS_SCHEMA, "run_id": run_id, "fingerprint": fingerprint, "moments": moments}
    return json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n"


def read_layers(folder: RunFolder, fingerprint: str) -> tuple[Snapshot, ...]:
    """Read a `layers.json`.

    Args:
        folder: of the run that it must belong to.
        fingerprint: of the data that it must belong to.

    Raises:
        BadRecordError: half-written, of another schema, run or data set, or with a wrong value.
        OSError: there is none, or it is not a plain file of the right size.
    """
    path = folder.path / LAYERS
    try:
        file = _LAYERS_FILE.validate_json(folder.read(LAYERS))
    except ValidationError as error:
        raise BadRecordError(explain(error), path) from None
    expected = {"schema": LAYERS_SCHEMA, "run_id": folder.run_id, "fingerprint": fingerprint}
    for key, value in expected.items():
        if (found := file.get(key)) != value:
            raise BadRecordError(f"{key} is {found!r}, not {value!r} as in the record", path)
    iterations = [snapshot.iteration for snapshot in file["moments"]]
    if iterations != sorted(set(iterations)):
        raise BadRecordError("the iterations of its moments do not ascend", path)
    return file["moments"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a run predicts after its last iteration; its test accuracy is the share of correct predictions.

    Args:
        classes: predicted class of each test image (n,), in the data set's order.
        labels_sha256: digest of the true classes, from `labels_sha256`.
        probabilities: float16 probability of each class (n, classes); None: the run did not save them.
    """

    classes: npt.NDArray[np.unsignedinteger]
    labels_sha256: str
    probabilities: npt.NDArray[np.float16] | None = None

    def correct(self, labels: Labels) -> npt.NDArray[np.bool_]:
        """Whether each test image is classified correctly (n,).

        Args:
            labels: true classes of the test images (n,).

        Raises:
            BadRecordError: the run was tested on other labels.
        """
        if labels_sha256(labels) != self.labels_sha256 or labels.shape != self.classes.shape:
            raise BadRecordError("the predictions are for other labels")
        return np.asarray(self.classes == labels)

    def to_npz(self) -> bytes:
        """The content of `predictions.npz`, for `numpy.load`: an array per field.

        Probabilities are left out if there are none, or if the file would become too large to be read.
        """
        dtype = next(one for one in CLASS_DTYPES if self.classes.max(initial=0) <= np.iinfo(one).max)
        file = io.BytesIO()
        arrays: dict[str, npt.NDArray[Any]] = {"classes": self.classes.astype(dtype)}
        arrays["labels_sha256"] = np.array(self.labels_sha256)
        if self.probabilities is not None and self.probabilities.nbytes < MAX_BYTES // 2:
            arrays["probabilities"] = self.probabilities
        np.savez(file, **arrays)  # type: ignore[arg-type]  # none is its other argument, allow_pickle
        return file.getvalue()


def read_predictions(folder: RunFolder) -> Predictions:
    """Read a `predictions.npz`.

    Raises:
        BadRecordError: it is cut off or something else; the message names the file and what is wrong.
        OSError: there is none, or it is not a plain file of the right size.
    """
    return parse_predictions(folder.read(PREDICTIONS), folder.path / PREDICTIONS)


def parse_predictions(content: bytes, path: Path | None = None) -> Predictions:
    """Parse the content of a `predictions.npz`; `path` is for the message of the BadRecordError."""
    try:
        with np.load(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.zip.infolist()) > MAX_BYTES:
                raise ValueError("it unpacks to too many bytes")
            classes, digest = archive["classes"], archive["labels_sha256"]
            probabilities = archive.get("probabilities")
        if probabilities is not None:
            if probabilities.dtype != np.float16 or probabilities.ndim != 2 or len(probabilities) != len(classes):
                raise ValueError("its probabilities have another type or shape")
            if not (probabilities.shape[1] and np.all((probabilities >= 0) & (probabilities <= 1))):
                raise ValueError("its probabilities are not all between 0 and 1")
        if classes.ndim != 1 or classes.dtype not in CLASS_DTYPES or digest.ndim or digest.dtype != np.dtype("<U64"):
            raise ValueError("wrong types of arrays")
        check_digest(str(digest))
    except Exception as error:  # zipfile, zlib and NumPy raise many kinds of errors for a damaged file
        raise BadRecordError(f"not a file of predictions: {error}", path) from None
    return Predictions(classes, str(digest), probabilities)


def labels_sha256(labels: Labels) -> str:
    """Sha256 (hexadecimal) of the classes as little-endian int64."""
    return hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()

"""What an initialisation did to each layer, as rows and as a table, and the error and the warning for its problems."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame


class LSUVError(ValueError):
    """The model, its batches or a layer cannot be initialised. The message is one line that names the cause."""


class LSUVWarning(UserWarning):
    """A layer was restored or did not reach unit variance. The message says which layer, why, and what to check."""


CONVERGED = "converged"
NOT_CONVERGED = "not converged"
UNSTABLE = "moved again"
SCATTERS = "off on further batches"
ZERO = "restored: zero variance"
SINGLE = "restored: a single value"
NOT_FINITE = "restored: not finite"
OVERFLOW = "restored: weights overflow"
MISSED = "restored: not reached again"
NOT_REACHED = "not reached"
SHARED = "shared weight"

# The statuses that are problems, and what to check
HINTS = {
    NOT_CONVERGED: "give larger batches, average or tol, or look for a bias or a norm that hides the weights' scale",
    UNSTABLE: "a later layer uses its weight too; look for weights that functions share",
    SCATTERS: "one batch differs much from the next; give larger batches",
    ZERO: "look for activations that died before it, or an input that is constant",
    SINGLE: "its output has too few values for a variance; give a larger batch",
    NOT_FINITE: "its output holds NaN or inf; look at the batch and at the layers before it",
    OVERFLOW: "the weights that it needs are not finite in its dtype; look at the scale of its input",
    MISSED: "forward passes leave it out; look for layers that are dropped at random, or set dropout=False",
}


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What an initialisation did to one weight layer, or to one piece of a maxout layer.

    Args:
        layer: the module's name in its model.
        piece: index of the maxout piece, else 0. For `nn.MultiheadAttention`: query, key, value.
        variance: variance of the pre-activation after the whole model was initialised: the mean over further batches,
            or the variance on the single batch. None if it was not measured, is NaN or overflows float32.
        variance_before: LSUV: before the first rescaling. None for the other initialisations, as are all fields below.
        variance_after: LSUV: on the last batch of its loop.
        tries: LSUV: how often the weights were rescaled.
        converged: LSUV: whether |variance_after - 1| <= tol. None for layers that were left unchanged.
        order: position in the forward pass, from 1; None if it did not reach the layer.
        status: LSUV: `converged`, or what happened instead.
    """

    layer: str
    piece: int
    variance: float | None = None
    variance_before: float | None = None
    variance_after: float | None = None
    tries: int | None = None
    converged: bool | None = None
    order: int | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Report(Sequence[LayerReport]):
    """One row per layer and piece, in the order of the forward pass; layers that it did not reach come last.

    Prints as a table.

    Args:
        rows: the rows.
        dropout: whether dropout was active in the forward passes.
        passes: number of forward passes that were begun; most of them end at the layer that is measured.
        batches: number of batches over which each row's `variance` is the mean; 0: it was not measured.
    """

    rows: tuple[LayerReport, ...]
    dropout: bool
    passes: int
    batches: int

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def problems(self) -> str:
        """Return one line that names the layers with problems and what to check; empty if there are none."""
        parts = []
        for status, hint in HINTS.items():
            names = list(dict.fromkeys(row.layer or "the model itself" for row in self.rows if row.status == status))
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{status}: {', '.join(names[:5])}{more} ({hint})")
        return "; ".join(parts)

    def to_frame(self) -> "DataFrame":
        """Return the rows as a data frame with one column per field of LayerReport."""
        import pandas as pd  # not needed to initialise a model

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(LayerReport.__dataclass_fields__))

    def __str__(self) -> str:
        columns = ["layer", "piece", "order", "variance_before", "variance_after", "variance", "tries", "status"]
        table = self.to_frame()[columns].to_string(index=False, na_rep="–", float_format="{:.4g}".format)
        mode = "on" if self.dropout else "off"
        return f"{table}\nbatches at the end: {self.batches}, dropout: {mode}, forward passes begun: {self.passes}"

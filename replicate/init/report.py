"""What an initialisation did to each layer, as rows and as a table, and the error and the warning for its problems."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame


class LSUVError(ValueError):
    """The model, its batches or a layer cannot be initialised. The message is one line that names the cause."""


class LSUVWarning(UserWarning):
    """A layer was restored or did not reach unit variance. The message says which layer, why, and what to check."""


CONVERGED = "converged"
NOT_CONVERGED = "not converged"
RANDOM = "moved again: forward passes are random"
DIFFERENT = "moved again: forward passes differ"
UNSTABLE = "moved again: its input has changed"
SCATTERS = "off on further batches"
ZERO = "restored: zero variance"
SINGLE = "restored: a single value"
NOT_FINITE = "restored: not finite"
OVERFLOW = "restored: weights overflow"
NO_EFFECT = "restored: scale has no effect"
OUT_OF_REACH = "restored: out of reach"
MISSED = "restored: not reached again"
RECURRENT = "drawn: recurrent"
FROZEN = "left: frozen"
COMPUTED = "left: computed from other tensors"
GENERATES = "left: its output is a weight"
USED_BY = "left: used by {}"
IN_PART = "left: reached in part"
LATE = "left: reached only at the end"
NOT_REACHED = "not reached"
SHARED = "shared weight"

# The statuses that are problems, and what to check
HINTS = {
    NOT_CONVERGED: "give larger batches, average or tol, or look for a bias or a norm that hides the weights' scale",
    RANDOM: "look for noise that evaluation mode does not switch off; give fresh batches",
    DIFFERENT: "look for a model that keeps results between them, or draws random numbers without torch",
    UNSTABLE: "a weight of a later layer is used before it, by another function",
    SCATTERS: "one batch differs much from the next; give larger batches",
    ZERO: "look for dead activations, a gain that starts at zero, or a constant input before it",
    SINGLE: "its output has too few values for a variance; give a larger batch",
    NOT_FINITE: "its output holds NaN or inf; look at the batch and at the layers before it",
    OVERFLOW: "the weights that it needs are not finite in its dtype; look at the scale of its input",
    NO_EFFECT: "the forward pass normalises or limits its weight, or a bias is larger than its output",
    OUT_OF_REACH: "its activation, or a mean and a deviation together, cannot reach the target",
    MISSED: "forward passes leave it out; look for layers that are dropped at random, or set dropout=False",
}
RESTORED = "restored: "  # how the statuses of weights begin that were written back
LEFT = ("left: ", NOT_REACHED, NO_EFFECT)  # how the statuses of weights begin that were left as they were
LARGE_SCALE = 1e3  # a weight that was scaled further than this, up or down, is named


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
        scale: LSUV: the factor by which the weights were multiplied after they were drawn.
        mean: of the pre-activation, measured as `variance`.
        gates: whether the output only gates other values, as in squeeze-and-excitation, or as query and key of
            attention. Unit variance may not be what such a layer needs. None if it was not measured.
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
    scale: float | None = None
    mean: float | None = None
    gates: bool | None = None


@dataclass(frozen=True, slots=True)
class Report(Sequence[LayerReport]):
    """One row per layer and piece, in the order of the forward pass; layers that it did not reach come last.

    Prints as a table.

    Args:
        rows: the rows.
        dropout: whether dropout was active in the forward passes.
        passes: number of forward passes that were begun; most of them end at the layer that is measured.
        batches: number of batches over which each row's `variance` is the mean; 0: it was not measured.
        left: share of the model's parameters that are weights and were left as they were.
    """

    rows: tuple[LayerReport, ...]
    dropout: bool
    passes: int
    batches: int
    left: float = 0.0

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def problems(self) -> str:
        """Return one line that names the layers with problems and what to check; empty if there are none."""
        parts = [
            f"{status}: {_names(found)} ({hint})"
            for status, hint in HINTS.items()
            if (found := [row for row in self.rows if row.status == status])
        ]
        if far := [row for row in self.rows if not 1 / LARGE_SCALE <= (row.scale or 1) <= LARGE_SCALE]:
            parts.append(f"scaled by more than {LARGE_SCALE:g}: {_names(far)} (look at the scale of the input)")
        if self.left > 0.5:
            found = [row for row in self.rows if (row.status or "").startswith(LEFT)]
            parts.append(f"{self.left:.0%} of the model's parameters were left as they were: {_names(found)}")
        return "; ".join(parts)

    def frame(self) -> "DataFrame":
        """Return the rows as a data frame with one column per field of LayerReport."""
        import pandas as pd  # not needed to initialise a model

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(LayerReport.__dataclass_fields__))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the variance of each layer before and after the initialisation, in the order of the forward pass.

        Args:
            ax: where to draw; None: a new figure.
        """
        import seaborn as sns
        from matplotlib import pyplot

        frame = self.frame().dropna(subset="order").reset_index()
        kinds = {"variance_before": "before rescaling", "variance": "at the end"}
        points = frame.rename(columns=kinds).melt("index", list(kinds.values()), value_name="variance").dropna()
        if ax is None:
            _, ax = pyplot.subplots(layout="constrained")
        points = points.rename(columns={"variable": "measured"})
        sns.scatterplot(points, x="index", y="variance", hue="measured", style="measured", ax=ax)
        ax.axhline(1, color="gray", linewidth=0.8, zorder=0)
        ax.set(xlabel="layer or piece, in the order of the forward pass", ylabel="variance", yscale="log")
        return ax

    def __str__(self) -> str:
        shown = ["layer", "piece", "order", "variance_before", "variance_after", "variance", "scale", "tries", "status"]
        table = self.frame()[shown].to_string(index=False, na_rep="–", float_format="{:.4g}".format)
        mode = "on" if self.dropout else "off"
        return f"{table}\nbatches at the end: {self.batches}, dropout: {mode}, forward passes begun: {self.passes}"


def _names(rows: list[LayerReport]) -> str:
    names = list(dict.fromkeys(row.layer or "the model itself" for row in rows))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

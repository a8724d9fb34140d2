"""What an initialisation did to each layer, as a small table."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

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

# The statuses of layers that LSUV worked on in vain, and what to look at
HINTS = {
    NOT_CONVERGED: "give larger batches, average or tol, or look for a bias or a norm that hides the weights' scale",
    UNSTABLE: "a later layer uses its weight too; look for weights that functions share",
    SCATTERS: "one batch differs much from the next; give larger batches",
    ZERO: "look for activations that died before it, or an input that is constant",
    SINGLE: "its output has too few values for a variance; give a larger batch",
    NOT_FINITE: "its output holds NaN or inf; look at the batch and at what stands before the layer",
    OVERFLOW: "the weights that it needs are no finite numbers of its dtype; look at the scale of its input",
    MISSED: "forward passes leave it out; look for layers that are dropped at random, or set dropout=False",
}


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What an initialisation did to one weight layer, or to one piece of a maxout layer.

    Args:
        layer: the module's name in its model.
        piece: index of the maxout piece, else 0. Of `nn.MultiheadAttention`: query, key, value.
        variance: of the pre-activation after the whole model was initialised: the mean over the further batches, or on
            the fixed batch. None where it was not measured, or overflows float32.
        variance_before: LSUV: before its first rescaling. None for the other initialisations, as are all below.
        variance_after: LSUV: on the batch that its loop saw last.
        tries: LSUV: how often the weights were rescaled.
        converged: LSUV: whether |variance_after - 1| <= tol. None for layers that were left alone.
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
    """A row for each layer and piece, in the order of the forward pass; layers that it did not reach come last.

    Prints as a table.

    Args:
        rows: the layers.
        dropout: whether dropout was active in the forward passes.
        passes: how many forward passes were begun; most of them end at the layer in hand.
        batches: over how many batches each row's `variance` is the mean; 0: it was not measured.
    """

    rows: tuple[LayerReport, ...]
    dropout: bool
    passes: int
    batches: int

    @overload
    def __getitem__(self, index: int) -> LayerReport: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerReport, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerReport | tuple[LayerReport, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def problems(self) -> str:
        """One line that names the layers that LSUV worked on in vain, and what to look at; empty if there are none."""
        parts = []
        for status, hint in HINTS.items():
            names = list(dict.fromkeys(row.layer or "the model itself" for row in self.rows if row.status == status))
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                parts.append(f"{status}: {', '.join(names[:5])}{more} ({hint})")
        return "; ".join(parts)

    def to_frame(self) -> "DataFrame":
        """Give the rows as a table, a column for each field of LayerReport."""
        import pandas as pd  # networks are initialised without it

        return pd.DataFrame([asdict(row) for row in self.rows], columns=list(LayerReport.__dataclass_fields__))

    def __rich__(self) -> "Table":
        from rich.table import Table  # likewise

        table = Table(caption=f"dropout {'on' if self.dropout else 'off'}, {self.passes} forward passes begun")
        mean = f"mean of {self.batches}" if self.batches > 1 else "when all is done"
        columns = ["layer", "call order", "variance before", "variance after", *[mean] * bool(self.batches), "tries"]
        for column in (*columns, "status"):
            table.add_column(column, justify="left" if column in ("layer", "status") else "right")
        pieces = {row.layer for row in self.rows if row.piece}
        for row in self.rows:
            name = f"{row.layer} / {row.piece}" if row.layer in pieces else row.layer
            variances = [row.variance_before, row.variance_after, *[row.variance] * bool(self.batches)]
            numbers = [f"{v:.4g}" if v is not None else "–" for v in variances]
            counts = ["–" if n is None else str(n) for n in (row.order, row.tries)]
            table.add_row(name, counts[0], *numbers, counts[1], row.status or "–")
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(self)
        return text.getvalue().rstrip("\n")

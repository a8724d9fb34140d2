"""LSUV's loop: one layer after another, in the order of their first calls, each piece to unit variance."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NoReturn

import torch
from torch import nn
from torch.jit import ScriptModule

from replicate.init import report
from replicate.init.layers import WeightLayer
from replicate.init.measure import Measurement, Passes, estimate, measure_call
from replicate.init.piece import Piece
from replicate.init.progress import Progress
from replicate.init.report import LayerReport, LSUVError
from replicate.init.settings import Settings
from replicate.init.snapshot import Snapshot
from replicate.init.tracking import Call, track_calls


class _OnePassError(BaseException):
    """Ends the attempt to use one pass. Not an Exception, because models may catch those."""


class LayerSequence:
    """Initialises the layers of one model, in the order of their first calls.

    Args:
        passes: run the model.
        draw: draws the starting weights. None: start from the model's present weights and biases.
        progress: called when a layer begins, with its number and the number of layers.
    """

    def __init__(
        self,
        passes: Passes,
        draw: Callable[[WeightLayer], None] | None,
        progress: Progress = lambda number, total: None,
    ) -> None:
        self.passes, self.survey, self.draw, self.progress = passes, passes.survey, draw, progress
        self.expected = sum(1 for _ in self.survey.matrices())  # number of layers, for the progress
        self.pieces: dict[WeightLayer, list[Piece]] = {}

    def start(self, layer: WeightLayer) -> None:
        """Save the weights of a layer and draw new ones, unless it is to be left as it is."""
        self.pieces[layer] = [Piece(layer, index) for index in range(layer.pieces)]
        self.progress(len(self.pieces), max(self.expected, len(self.pieces)))
        left = self.survey.excluded.get(layer, layer.left)
        if left is None and layer.drawn and self.draw is not None:
            self.draw(layer)
            # Memory that was never written, as after to_empty(), is not worth restoring.
            if not all(torch.isfinite(values).all() for piece in self.pieces[layer] for values in piece.saved):
                self.pieces[layer] = [Piece(layer, index) for index in range(layer.pieces)]
        for piece in self.pieces[layer]:
            piece.status = left or (None if layer.measured else report.RECURRENT)

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Restore all parameters if the block raises or is interrupted; otherwise those that were not initialised."""
        self.snapshot = Snapshot(self.survey.model)
        try:
            yield
        except BaseException:
            self.snapshot.restore()
            raise
        self.snapshot.restore(keep=self.initialised())

    def initialised(self) -> set[nn.Parameter]:
        """Return the parameters that were initialised, or that a piece has restored, and those that share memory."""
        tensors = [tensor for layer in self.pieces if not layer.left for tensor in layer.all_tensors()]
        found = {parameter for tensor in tensors if (parameter := self.survey.parameters.find(tensor)) is not None}
        return self.survey.parameters.sharing(found)

    def normalise(self, settings: Settings, one_pass: bool) -> list[LayerReport]:
        """Bring all layers to unit variance, as far as forward passes reach them.

        Args:
            settings: see `lsuv_`.
            one_pass: use one forward pass, if the model allows it. Otherwise each measurement takes one or more forward
                passes up to the layer.

        Returns:
            One row per layer and piece, in the order of the forward pass; layers that it did not reach come last.

        Raises:
            LSUVError: no layer was reached.
        """
        if not (one_pass and self._normalise_in_one_pass(settings)):
            self._normalise_by_passes(settings)
        for pieces in self.pieces.values():
            if any(piece.status is None for piece in pieces):  # the call raised an exception, which the model caught
                for piece in pieces:
                    piece.status = report.NOT_REACHED
                    piece.restore()
        return self.rows()

    def _normalise_in_one_pass(self, settings: Settings) -> bool:
        """Normalise each layer at its call: repeat the call after each rescaling, then continue the forward pass.

        Returns:
            False, with everything undone, if the forward pass computes or changes weights: it may have used old values.
        """

        def before_call(layer: WeightLayer) -> None:
            if layer.computed or self._weights_change():
                raise _OnePassError
            self.start(layer)

        def on_call(layer: WeightLayer, call: Call) -> None:
            def measure(is_first: bool) -> list[Measurement]:
                if not is_first:
                    call.run()
                return measure_call(layer, call)

            if _normalise(self.pieces[layer], measure, settings):
                call.run()  # the following layers get the output of the weights that were restored

        with contextlib.suppress(_OnePassError):
            with track_calls(self.survey, on_call, before_call):
                self.passes.runner()
            if not self._weights_change():
                return True
        self.snapshot.restore()
        self.pieces.clear()
        return False

    def _weights_change(self) -> bool:
        """Whether a forward pass has written to a parameter, or has applied the output of a layer as a weight."""
        return self.survey.rewritten or bool(self.survey.excluded)

    def _normalise_by_passes(self, settings: Settings) -> None:
        """Normalise one layer after another, each by forward passes that end at that layer."""
        self.passes.run()  # finds the layers
        while new := [layer for layer in self.survey.selected() if layer not in self.pieces]:
            self.expected = len(self.pieces) + len(new)
            for layer in new:  # later passes may reach further layers
                self.start(layer)
                _normalise(self.pieces[layer], partial(estimate, self.passes, layer, settings), settings)

    def rows(self) -> list[LayerReport]:
        """Make the rows of the layers that were started, then those of all others."""
        order = {layer: number for number, layer in enumerate(self.pieces, 1)}
        rows = [piece.row(layer, order[layer]) for layer, pieces in self.pieces.items() for piece in pieces]
        rows.sort(key=lambda row: row.status == report.NOT_REACHED)
        missed = [layer for layer in self.survey.selected() if layer not in self.pieces]
        rows += [LayerReport(layer.name, p, status=report.LATE) for layer in missed for p in range(layer.pieces)]
        if not rows:
            self._nothing_reached()
        return rows + [LayerReport(name, 0, status=status) for name, status, _ in self.survey.left_over()]

    def _nothing_reached(self) -> NoReturn:
        if self.survey.filter is not None and self.survey.layers:
            raise LSUVError(f"layers={self.survey.filter!r} selects no weight layer of the model")
        hint = "initialise it before torch.jit.script" if isinstance(self.survey.model, ScriptModule) else ""
        names = ", ".join(f"{name or 'the model itself'} ({status})" for name, status, _ in self.survey.left_over())
        found = hint or names or "the model has none"
        raise LSUVError(f"no linear or convolutional layer was reached by the model's forward pass: {found}")

    def share_left(self) -> float:
        """Return the share of the model's parameters that are weights and were left as they were."""
        count = sum(number for _, _, number in self.survey.left_over())
        for layer, pieces in self.pieces.items():
            kept = [piece for piece in pieces if (piece.status or "").startswith(report.LEFT)]
            count += sum(layer.part(layer.weight, piece.index).numel() for piece in kept)
        return count / max(1, sum(parameter.numel() for parameter in self.survey.model.parameters()))


def _normalise(pieces: list[Piece], measure: Callable[[bool], list[Measurement] | None], settings: Settings) -> bool:
    """Bring each piece of a layer to unit variance.

    Args:
        pieces: of the layer.
        measure: measures all pieces, or returns None if forward passes do not reach the layer. One measurement serves
            all pieces, because none of them is an input of another. Its argument: whether it is the first.
        settings: see `lsuv_`.

    Returns:
        Whether a piece could not be normalised and was restored.
    """
    while unfinished := [piece for piece in pieces if piece.status is None]:
        measured = measure(unfinished[0].tries == 0)
        # Finished pieces are left as they are: on the next batch they may be just outside the tolerance.
        for piece in unfinished:
            piece.update(measured[piece.index] if measured else None, settings)
    restored = [piece for piece in pieces if (piece.status or "").startswith(report.RESTORED)]
    for piece in restored:
        piece.restore()
    for piece in pieces:
        piece.saved.clear()  # this memory is not needed any more
    return bool(restored)

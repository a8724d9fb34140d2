"""Standard output and error of a command, where they are closed, full, or lack characters."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator

STANDARD = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def prepare() -> None:
    """Replace closed standard streams by the null device, and characters that an encoding lacks by question marks.

    The next file that is opened would get the number of a closed stream, and with it what is printed.
    """
    for number, (name, mode) in enumerate(STANDARD):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class PatientStream(io.TextIOWrapper):
    """A stream that takes everything: what cannot be written is lost.

    Attributes:
        error: why something was lost; None if nothing was.
    """

    error: OSError | None = None

    def write(self, text: str) -> int:
        """Write a text, or lose it."""
        with self._losing():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is still in memory, or lose it."""
        with self._losing():
            super().flush()

    @contextlib.contextmanager
    def _losing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = error
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())  # for all that follows, and for what is still in memory
            os.close(null)


@contextlib.contextmanager
def patient_output() -> Iterator[Callable[[], OSError | None]]:
    """Within, nothing that is printed can fail, so that a full disk or a reader that is gone stops no training.

    The yielded function returns why something was lost on the standard output; None if nothing was.
    """
    before = sys.stdout, sys.stderr
    if sys.stdout is not sys.__stdout__:  # somebody has replaced it, such as a test
        yield lambda: None
        return
    patient = []
    for stream in before:
        stream.flush()
        binary = os.fdopen(os.dup(stream.fileno()), "wb")
        patient.append(PatientStream(binary, stream.encoding, "replace", line_buffering=True))
    sys.stdout, sys.stderr = patient
    try:
        yield lambda: patient[0].error
    finally:
        for stream in patient:
            stream.flush()
        sys.stdout, sys.stderr = before

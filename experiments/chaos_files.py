"""The ways in which chaos.py damages a file of a run. Each returns whether it did."""

import os
import random
from pathlib import Path

from replicate.store.files import read_bytes
from replicate.store.run_folder import OWNER

FILES = {
    "result": "result.json", "checkpoint": "checkpoint.pt", "claim": f"claim/*/{OWNER}", "curve": "curve.csv",
    "layers": "layers.json", "predictions": "predictions.npz", "log": "log.txt",
}  # fmt: skip
MEASURED = ("curve.csv", "layers.json")  # nothing writes them again once they are complete


def overwrite(path: Path, rng: random.Random) -> bool:
    """Truncate a file or fill it with garbage, in place, as a crash of the machine may."""
    try:
        if not (content := content_of(path)):
            return False
        truncated = content[: rng.randrange(len(content))]
        path.write_bytes(rng.choice([truncated, b"", rng.randbytes(len(content))]))
    except OSError:  # it has been removed meanwhile
        return False
    return True


def flip(path: Path, rng: random.Random) -> bool:
    """Flip a single bit of a file, in place, as a failing disk may."""
    try:
        if not path.is_file():  # a pipe, which would block
            return False
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            # half of them in the last 2 %, where an archive has its index
            place = rng.choice([rng.randrange(size), rng.randrange(size * 49 // 50, size)])
            file.seek(place)
            (byte,) = file.read(1)
            file.seek(place)
            file.write(bytes([byte ^ 1 << rng.randrange(8)]))
    except (OSError, ValueError):  # it is empty, or has been removed or truncated meanwhile
        return False
    return True


def put_pipe(path: Path, rng: random.Random) -> bool:
    """Put a named pipe in place of a file."""
    pipe = path.with_name(f".pipe-{rng.randrange(10**9)}")
    try:
        os.mkfifo(pipe)
        pipe.replace(path)
    except OSError:  # its folder has been removed meanwhile
        return False
    return True


DAMAGES = {"damage": overwrite, "flip": flip, "pipe": put_pipe}


def content_of(path: Path) -> bytes:
    """Read a plain file; empty if there is none."""
    try:
        return read_bytes(path)
    except OSError:
        return b""

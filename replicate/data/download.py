"""Official files: downloaded, checked by MD5 and read."""

import hashlib
import socket
from http.client import HTTPException
from pathlib import Path

from replicate.errors import UsageError
from replicate.store.files import read_bytes

SILENT_SECONDS = 60.0  # of a server, after which a download fails
MAX_BYTES = 200_000_000  # of a file; that of CIFAR-100's 50,000 training images has 155,000,000


def download(label: str, url: str, path: Path, md5: str, remedy: str) -> None:
    """Download a file; a progress bar goes to stderr.

    Args:
        label: display name of the data set.
        url: of the folder that holds the file.
        path: where to put it. It has the same name at the URL, and may be incomplete after an error.
        md5: of the file.
        remedy: what the user can do if the download fails.

    Raises:
        UsageError: the download failed.
    """
    from torchvision.datasets.utils import download_url  # here, because this takes seconds

    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(SILENT_SECONDS)  # for torchvision has none
        download_url(f"{url}/{path.name}", path.parent, path.name, md5)
    except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError: the MD5 is wrong
        raise UsageError(f"cannot download {label} from {url} ({' '.join(str(error).split())}): {remedy}") from None
    finally:
        socket.setdefaulttimeout(before)


def read_official(path: Path, md5: str) -> bytes:
    """Read an official file.

    Raises:
        UsageError: it is missing or another one.
    """
    content = read_bytes(path, MAX_BYTES) if path.exists() else b""
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise UsageError(f"{path} is missing or is not the official file; delete {path.parent} and try again")
    return content

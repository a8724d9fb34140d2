"""Reads W&B's offline file: LevelDB's log format (github.com/google/leveldb, doc/log_format.md) of Records.

After a header of 7 bytes (":W&B", a magic number, a version) the file is cut into blocks of 32,768 bytes, the first one
including the header. A record consists of one or several fragments. Before each fragment are its checksum (4 bytes),
length (2) and type (1: a whole record; 2, 3, 4: the first, a middle, the last fragment). The file cannot be searched
for words, because the edge of a fragment may cut them.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 32768, 7


def records(path: Path) -> Iterator["Record"]:
    from wandb.proto.wandb_internal_pb2 import Record  # here, because it loads all of W&B

    content = path.read_bytes()
    assert b":W&B".startswith(content[:4])
    position, pending = HEADER, b""
    while position + HEADER <= len(content):
        if BLOCK - position % BLOCK < HEADER:  # too little room for a fragment's head: zeros up to the block's end
            position += BLOCK - position % BLOCK
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        assert kind in (1, 2, 3, 4), f"a fragment of type {kind} at {position}"
        fragment = content[position + HEADER : position + HEADER + length]
        if len(fragment) < length:  # not yet written to its end
            return
        pending += fragment
        position += HEADER + length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(pending)
            pending = b""
            yield record


def closed(folder: Path, seconds: float = 30) -> list["Record"]:
    """All records of a finished run's folder. W&B's own process may still be writing when `finish` has returned."""
    (path,) = folder.glob("*.wandb")
    until = time.monotonic() + seconds
    while not any(record.HasField("exit") for record in records(path)):
        assert time.monotonic() < until, f"no exit record in {path} after {seconds} s"
        time.sleep(0.05)
    return list(records(path))


def items(message: Any) -> dict[str, Any]:
    """The keys of a history, summary or config message, "/" between the parts of a nested one."""
    updates = getattr(message, "item", None) or message.update
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def table(folder: Path, history: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The rows of a table that a history message of a run's folder refers to."""
    content = json.loads((folder / "files" / history[f"{key}/path"]).read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]

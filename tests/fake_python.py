"""Replaces Python in a GPU slot (GPU_SLOT_PYTHON): answers as our programs would, at once or with a fault.

FAKE_LOG names a file to which each call and each run adds a line. FAKE_FAULTS lists faults such as `bench-graph=hang`:
`fail` or `hang` of `client`, `data`, `bench-PATH` or `matrix-STEP`. FAKE_SECONDS is the duration of a run. FAKE_NOT
lists ends of arguments: a call with one of these goes to the real Python.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml

FAULTS = dict(fault.split("=") for fault in os.environ.get("FAKE_FAULTS", "").split(",") if fault)


def main(words: list[str]) -> int:
    if any(word.endswith(tuple(os.environ.get("FAKE_NOT", "-").split(","))) for word in words):
        os.execv(sys.executable, [sys.executable, *words])
    if words[0] == "-c":
        return trouble("client")
    command, rest = ("bench", words[1:]) if words[0] == "experiments/bench" else (words[2], words[3:])
    log(f"{command} {' '.join(rest)} mps={'CUDA_MPS_PIPE_DIRECTORY' in os.environ}")
    return bench(rest) if command == "bench" else matrix(rest)


def bench(words: list[str]) -> int:
    paths, out = value(words, "--paths"), Path(value(words, "--out"))
    if code := trouble(f"bench-{paths}"):
        return code
    rate = {"eager": 300.0, "graph": 900.0}.get(paths, 1000.0)
    row = {"path": paths, "activation": value(words, "--activations"), "at_once": 1, "iterations_per_second": rate}
    out.mkdir(parents=True, exist_ok=True)
    (out / "device.json").write_text(json.dumps({"rows": [row]}))
    (out / "device.md").write_text(f"# {paths}\n")
    if "--profile" in words:
        Path(value(words, "--profile")).write_text(f"kernels of {paths}\n")
    return 0


def matrix(words: list[str]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    content, out = yaml.safe_load(Path(words[0]).read_text()), Path(value(words, "--out"))
    is_data = out.name == "try"
    settings = dict(word.split("=") for word in words if "=" in word)
    fault = "data" if is_data else f"matrix-{value(words, '--step')}".replace("auto", "graph")
    excluded = [(one["init"], one["activation"]) for one in content["exclude"]]
    grid = content["grid"]
    cells = [(init, act) for init in grid["init"] for act in grid["activation"] if (init, act) not in excluded]
    code = 0
    for seed in settings.get("seed", "0").split(","):
        for init, activation in cells[:1] if is_data else cells:
            folder = out / "runs" / f"{init}-{activation}-s{seed}-00000000"
            result = folder / "result.json"
            if result.exists() and json.loads(result.read_text())["status"] != "error":
                continue
            (folder / "claim").mkdir(parents=True, exist_ok=True)
            log(f"run {out.name} {init}-{activation}-s{seed}")
            failed = trouble(fault)
            if not failed:
                time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
                (folder / "curve.csv").write_text("iteration,epoch\n100,1.0\n")
            record = {"status": "error" if failed else "converged", "test_accuracy": None if failed else 90.0}
            record |= {"error": "Traceback\nRuntimeError: a fault" if failed else None, "seconds": 1.0}
            record |= {"fingerprint": "bad7", "options": {"experiment": content["name"]}}
            (folder / ".new").write_text(json.dumps(record))
            (folder / ".new").rename(result)
            (folder / "claim").rmdir()
            code = max(code, failed)
    return code


def trouble(place: str) -> int:
    """Hang, or return 1 with a message, or return 0."""
    fault = FAULTS.get(place)
    if fault == "hang":
        time.sleep(600)
    elif fault:
        print(f"replicate: {place} fails: its losses differ", file=sys.stderr)
    return int(fault is not None)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def log(line: str) -> None:
    with open(os.environ["FAKE_LOG"], "a") as file:
        file.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The options of the commands, as argparse wants them."""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

from replicate.errors import UsageError
from replicate.options import STEPS, WANDB_MODES

LAUNCHERS = ("local", *(CLUSTERS := ("slurm", "ray")))
OUT = Path("results/local")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of times; give 0 or more")
    return int(text)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip(), flags=re.ASCII)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; give seconds, or such as 90s, 10m, 2h, 1d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]


def split_cluster(arguments: Sequence[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Take the options of clusters, whose names only the clusters know, out of a command line.

    Returns:
        The other arguments, and by cluster its options as typed.

    Raises:
        UsageError: an option without a value.
    """
    rest: list[str] = []
    found: dict[str, dict[str, str]] = {}
    words = iter(arguments)
    for word in words:
        match = re.fullmatch(rf"--({'|'.join(CLUSTERS)})\.([\w-]+)(?:=(.*))?", word, flags=re.DOTALL)
        if match is None:
            rest.append(word)
            continue
        value = match[3] if match[3] is not None else next(words, None)
        if value is None:
            raise UsageError(f"--{match[1]}.{match[2]} takes a value")
        found.setdefault(match[1], {})[match[2].replace("-", "_")] = value
    return rest, found


def add_collect(parser: argparse.ArgumentParser) -> None:
    """Add what is merged, and where to."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="output folders, which are only read")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder to merge them into")
    parser.epilog = (
        "Copies result.json, curve.csv, layers.json and predictions.npz by run_id. A finished record wins over an "
        "error. Where finished records of a run differ in more than time, host, device, code and options, none of them "
        "is copied, what is in the output folder stays, and the exit code is 1, as it is where a record cannot be "
        "read. Runs in progress are left out; the next call copies them."
    )


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Add what every command on an experiment file takes."""
    parser.add_argument("file", metavar="FILE", type=Path, help="experiment file, such as experiments/table3.yaml")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"output folder ({OUT}/ and the experiment's name)")
    for option, text in {
        "--only": "keep only the runs with these values, such as init=lsuv,xavier",
        "--set": "replace settings, such as lr=0.02; a list replaces an axis, such as seed=0,1",
    }.items():
        parser.add_argument(option, nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=text)


def add_shard(*parsers: argparse.ArgumentParser) -> None:
    """Add the part of the runs that one of several machines takes."""
    for parser in parsers:
        text = "only the Kth of N parts of like cost, such as 2/8; give every part the same FILE, --set and --only"
        parser.add_argument("--shard", metavar="K/N", help=text)


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Add which finished runs are verified."""

    def count(text: str) -> int | None:
        if text == "all":
            return None
        if int(text) < 1:
            raise ValueError
        return int(text)

    parser.add_argument("--sample", type=count, default=3, metavar="N", help="how many finished runs, or all (3)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw of the sample (0)")
    parser.epilog = (
        "Exit code 0: each rerun is identical to its record (curve.csv, accuracy, digest of the weights), or its code "
        "or machine differs, which is named, and its test accuracy is within the tolerance: the 95 % limit of a "
        "difference by chance of two shares of the test images. Exit code 1: some differ beyond that, or without a "
        "reason. The reruns go to OUT/verify and are removed if none differs; records are never touched."
    )


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Add whether a state is shown once or until the end."""
    text = "keep showing it until all is done (exit code 0, or 1 with errors) or Ctrl-C (3); to a file, a line a change"
    parser.add_argument("--watch", action="store_true", help=text)


def add_dry_run(*parsers: argparse.ArgumentParser) -> None:
    """Add what a command takes that sends something to a server."""
    for parser in parsers:
        parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")


def add_resources(parser: argparse.ArgumentParser, several: bool, mirrored: bool = True) -> None:
    """Add where runs are carried out; `several`: for more than one run, `mirrored`: to Weights & Biases as well."""
    text = "auto (GPUs, else the CPU), cpu, mps (Apple's GPU, untested), or GPU numbers such as 0,1 (auto)"
    parser.add_argument("--devices", default="auto", help=text)
    if several:
        text = "runs at a time on each device (1; on this machine's CPU one for every --threads-per-run cores)"
        parser.add_argument("--per-device", type=int, metavar="N", help=text)
        text = f"what starts the runs: {', '.join(LAUNCHERS)}; a cluster's options bear its name, such as "
        text += "--slurm.partition NAME, --slurm.gres gpu:1, --ray.address HOST:PORT"
        parser.add_argument("--launcher", default="local", help=text)
        text = "on a cluster, workers at a time; each carries out runs until none is left (one per run that is left)"
        parser.add_argument("--workers", type=int, metavar="N", help=text)
    else:
        parser.set_defaults(per_device=1, launcher="local", workers=None)
    text = (
        "retries of a run that was killed, ran out of memory, met a CUDA error or a full disk, and of a lost worker (1)"
    )
    parser.add_argument("--retries", type=_count, default=1, metavar="N", help=text)
    text = "end before so long, such as 90s, 10m, 2h or 1d: what runs saves a checkpoint; exit code 3 if runs are left"
    parser.add_argument("--time-limit", type=_seconds, default=math.inf, metavar="TIME", help=text)
    text = "time between two checkpoints of a run (60)"
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, metavar="S", help=text)
    text = f"how an iteration reaches the device: {', '.join(STEPS)}; auto: a graph on a GPU, else eager (auto)"
    parser.add_argument("--step", default="auto", help=text)
    text = "the same bits twice on a GPU as well; on the CPU it is so in any case"
    parser.add_argument("--deterministic", action="store_true", help=text)
    text = "CPU threads of each process of a run (1)"
    parser.add_argument("--threads-per-run", type=int, default=1, metavar="N", help=text)
    text = "GPUs (or CPU processes) that share the batches of each run (1); GPUs left over stay idle"
    parser.add_argument("--devices-per-run", type=int, default=1, metavar="N", help=text)
    if not mirrored:
        parser.set_defaults(wandb="off")
        return
    parser.add_argument(
        "--wandb", metavar="MODE", help=f"{', '.join(WANDB_MODES)} (what WANDB_MODE says, else offline)"
    )

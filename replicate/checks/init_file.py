"""`replicate check-init`: tries the initialisations of a plugin on small nets, ten seconds each on a core."""

import random
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from replicate.checks.common import SMALL, Finding, Say, print_findings, sample, start
from replicate.checks.trainings import fit
from replicate.data import load
from replicate.data.dataset import Dataset
from replicate.init import initialize_
from replicate.init.model_inits import takes_model
from replicate.names import ACTIVATIONS, resolve
from replicate.options import Options
from replicate.plugins import Plugin, function_of, register
from replicate.plugins import load as load_plugin
from replicate.report.text import count, display_name
from replicate.run import Run
from replicate.store.lease import acquire
from replicate.store.owner import Owner
from replicate.store.run_folder import RunFolder
from replicate.training.build import build_data, build_net, stream
from replicate.training.logger import Logger
from replicate.training.module import DivergedError
from replicate.training.train import train_run

TOY: dict[str, Any] = {
    **SMALL,
    "activation": "relu",
    "dataset": "synthetic",
    "width": 1 / 16,
    "iterations": 4,
    "lr": 0.01,
}
# 2,000 images: the curve has a row, and the training a stop, after 4 iterations.
STOPPED: dict[str, Any] = {"batch_size": 500, "iterations": 5, "dropout": 0.2}
STREAMS: dict[str, Callable[[], Any]] = {
    "python's random": random.getstate,
    "numpy.random": lambda: str(np.random.get_state()),
    "torch's global generator": lambda: torch.get_rng_state().tolist(),
}


@dataclass
class Seen:
    """What an initialisation did besides its job: whether it drew numbers, and what is wrong, by kind."""

    draws: bool = False
    streams: set[str] = field(default_factory=set)
    buffers: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)


def check_init(plugin: Plugin, console: Console) -> int:
    """Carry out all checks of each initialisation, and print what they find.

    Meant for a process of its own: it sets torch's threads, and seeds of all random streams.

    Args:
        plugin: the file.
        console: shows the findings.

    Returns:
        The exit code: 1 if a check failed, else 0.

    Raises:
        UsageError: the file cannot be imported.
    """
    register([plugin])
    load_plugin(plugin)
    return print_findings(partial(findings, plugin), console)


def findings(plugin: Plugin, say: Say) -> Iterator[tuple[str, Finding]]:
    """Carry out one check after another, and yield their names and what they find."""
    few = sample(load("synthetic", Path()), train=200, test=20)
    for name, _ in plugin.inits:
        run, seen = Run(**{**TOY, "init": name, "plugin": plugin.digest}), Seen()
        function = function_of(name, plugin.digest)
        checks: dict[str, Callable[[], Finding]] = {
            "same weights twice": partial(check_reproducible, run, few, seen),
            "random streams": partial(_no_others, seen.streams, "draws from", "its own generator only"),
            "values": partial(_no_others, seen.values, "", "of the right shape, in float32, and finite"),
            **({"what it changes": partial(check_changes, run, few)} if takes_model(function) else {}),
            "activations": partial(check_activations, run, few, say),
            "stop and resume": partial(check_resume, run),
        }
        for what, find in checks.items():
            say(f"{name}: {what}")
            try:
                yield f"{name}, {what}", find()
            except Exception as error:  # of the user's code
                yield f"{name}, {what}", Finding("failed", "; ".join([*sorted(seen.values), _told(error, plugin)]))
                break  # the others would fail as well


def _told(error: Exception, plugin: Plugin) -> str:
    lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == str(plugin.path)]
    where = f" in line {lines[-1]} of {plugin.path.name}" if lines else ""
    return f"{type(error).__name__}{where}: {error}"


def _no_others(found: set[str], what: str, right: str) -> Finding:
    first, more = sorted(found)[:3], len(found) - 3
    named = " and ".join([*first, *[f"{more} more"] * (more > 0)])
    return Finding("failed", f"{what} {named}".strip()) if found else Finding("ok", right)


def check_reproducible(run: Run, few: Dataset, seen: Seen) -> Finding:
    """Initialise twice with one seed, and once with another, while the global random streams differ each time."""
    first, again, other = (
        initialised(one, few, seen, seed) for seed, one in enumerate((run, run, replace(run, seed=1)))
    )
    if not all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in zip(first, again, strict=True)):
        return Finding("failed", "two nets with the same seed differ")
    if seen.draws and all(map(torch.equal, first, other)):
        return Finding("failed", "it draws numbers, but two seeds give the same weights")
    return Finding("ok", "others with another seed" if seen.draws else "it draws nothing")


def initialised(run: Run, few: Dataset, seen: Seen, seed: int = 0) -> list[Tensor]:
    """Initialise a net without dropout, and return its weights and biases.

    Args:
        run: names the initialisation.
        few: images.
        seen: notes what the initialisation does.
        seed: of the global random streams.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    assert run.plugin is not None
    data, net = build_data(run, few, "cpu"), build_net(run, len(few.classes), "cpu")
    initialize_(
        net,
        observed(function_of(run.init, run.plugin), seen),
        (images for images, _ in data.fresh_batches(stream(run.seed, "lsuv"), run.lsuv_batch_size)),
        generator=stream(run.seed, "init"),
        negative_slope=resolve(ACTIVATIONS[run.activation]).negative_slope,
        dropout=False,  # no mask is drawn
    )
    weights = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    if not seen.values:
        seen.values |= {f"{name} holds NaN or inf" for name, values in weights.items() if not values.isfinite().all()}
    return [*weights.values()]


def observed(init: Callable[..., Any], seen: Seen) -> Callable[..., Any]:
    """Return an initialisation that does the same and notes what it does besides."""
    on_model = takes_model(init)

    @wraps(init)
    def call(first: Any, second: Any, third: Any) -> Any:
        generator = third if on_model else second
        drawn, before = generator.get_state(), {name: state() for name, state in STREAMS.items()}
        buffers = {name: buffer.clone() for name, buffer in first.named_buffers()} if on_model else {}
        result = init(first, second, third)
        seen.draws |= not torch.equal(drawn, generator.get_state())
        seen.streams |= {name for name, state in STREAMS.items() if state() != before[name]}
        after = dict(first.named_buffers()) if on_model else {}
        seen.buffers |= {name for name in buffers if name not in after or not torch.equal(after[name], buffers[name])}
        if not on_model and (wrong := wrong_result(result, first)):
            seen.values.add(wrong)
        return result

    return call


def wrong_result(result: object, shape: tuple[int, ...]) -> str:
    """Say what is wrong with what a scheme returns; empty if nothing is."""
    if not isinstance(result, Tensor):
        return f"returns {type(result).__name__} and no tensor"
    if tuple(result.shape) != tuple(shape):
        return f"returns a tensor of shape {tuple(result.shape)} for {tuple(shape)}"
    if result.dtype != torch.float32:
        return f"returns {str(result.dtype).removeprefix('torch.')} and not float32"
    return "" if result.isfinite().all() else "returns NaN or inf"


def check_changes(run: Run, few: Dataset) -> Finding:
    """Initialise a net with batch normalisation and PReLU, which has buffers, and parameters that are no weights.

    `initialize_` refuses a change of these parameters by itself, and undoes one of buffers.
    """
    seen = Seen()
    initialised(replace(run, model="fitnet4_bn_before", activation="prelu"), few, seen)
    return _no_others(seen.buffers, "changes the buffer", "weights and biases only")


def check_activations(run: Run, few: Dataset, say: Say) -> Finding:
    """Train a net for a few iterations with each activation."""
    diverged = []
    for activation in ACTIVATIONS:
        say(f"{run.init}: {display_name(activation)}")
        one = replace(run, activation=activation)
        module, data = start(one, few)
        if wrong := [name for name, values in module.net.named_parameters() if not values.isfinite().all()]:
            return Finding("failed", f"with {display_name(activation)}, {wrong[0]} holds NaN or inf")
        try:
            fit(one, module, data)
        except DivergedError:
            diverged.append(display_name(activation))
    text = f"{count(run.iterations, 'iteration')} with each of {len(ACTIVATIONS)}"
    if diverged:
        return Finding("note", f"{text}; the training diverges with {', '.join(diverged)}, which need not be an error")
    return Finding("ok", text)


def check_resume(run: Run) -> Finding:
    """Train a run in a single go, and once more with a stop in the middle: the weights must have the same bits."""
    run, digests = replace(run, **STOPPED), []

    def stop(iteration: int, accuracy: float | None, stage: str = "", /) -> None:
        if accuracy is not None and iteration < run.iterations:
            signal.raise_signal(signal.SIGTERM)

    for parts in ([_go_on], [stop, _go_on]):
        with tempfile.TemporaryDirectory() as folder:
            options = Options(Path(folder))
            for number, progress in enumerate(parts):
                lease = acquire(RunFolder.of(options.out, run), Owner("cpu", run.iterations))
                assert lease is not None
                with lease:
                    result = train_run(run, options, lease, progress, Logger())
                if (result is None) != (number < len(parts) - 1):
                    return Finding("note", "the training ended before the stop, so nothing is known")
        assert result is not None
        if result.status == "error":
            return Finding("failed", (result.error or "").strip().splitlines()[-1])
        digests.append(result.weights_sha256)
    if None in digests:
        return Finding("note", "the training diverges, so there are no weights to compare")
    same = digests[0] == digests[1]
    return Finding("ok", "the same bits") if same else Finding("failed", "after a stop the weights have other bits")


def _go_on(iteration: int, accuracy: float | None, stage: str = "", /) -> None:
    """Let a training continue to its end."""

"""Compare `replicate.init.lsuv_` with the package `lsuv`: python experiments/compare_lsuv.py.

Both initialise the same networks, with one batch, dropout off and a tolerance of 0.01 on the standard deviation (0.02
on the variance). The result is measured at each layer's first call, with the code of neither. Prints Markdown.
"""

import copy
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from textwrap import shorten

import lsuv
import torch
import torchvision.models as tv
from compare_lsuv_cases import CASES, LARGE
from script import make_app, run_app
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from replicate.init import LSUVWarning, lsuv_
from replicate.nn.activations import RELU
from replicate.nn.fitnet import FITNET4, build

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, *CONVS)

app = make_app("compare_lsuv", __doc__)


def ours(model: nn.Module, batch: Tensor, *, pre_init: bool = True, fresh: bool = False) -> str:
    """Apply this project's LSUV; return the statuses that it reports, other than `converged`."""
    start = "orthonormal" if pre_init else None
    batches = (lambda: torch.randn_like(batch)) if fresh else batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(model, batches, dropout=fresh, pre_init=start)
    return ", ".join(f"says “{status}”" for status in sorted({row.status or "" for row in report} - {"converged"}))


def theirs(model: nn.Module, batch: Tensor, *, pre_init: bool = True) -> str:
    """Apply the LSUV of the package `lsuv`; return whether it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lsuv.lsuv_with_singlebatch(
            model, batch, std_tol=0.01, max_attempts=20, do_orthonorm=pre_init, verbose=False, device=batch.device
        )
    return "warned" if any("LSUV" in str(w.message) for w in caught) else ""


def deviations(model: nn.Module, batch: Tensor) -> dict[str, float]:
    """Measure the standard deviation of each layer's output at its first call, in evaluation mode.

    Plain forward hooks measure it. Functions of attention use their weights without calling a layer, so F.linear is
    replaced for the time of the measurement.

    Returns:
        Name of the layer, a slash and the number of the maxout piece -> the standard deviation.
    """
    found: dict[str, float] = {}
    owners = {id(m.weight): (name, m) for name, m in model.named_modules() if isinstance(m, LAYERS)}

    def note(name: str, layer: nn.Module, y: Tensor) -> None:
        pieces = getattr(layer, "pieces", 1)
        channels = 1 if isinstance(layer, CONVS) else y.ndim - 1
        for p in range(pieces):
            part = y.detach().double().unflatten(channels, (-1, pieces)).select(channels + 1, p)
            found.setdefault(f"{name}/{p}", part.std(correction=0).item())

    def attention(name: str, layer: nn.MultiheadAttention, args: tuple[Tensor, ...], output: Tensor) -> None:
        for p, (x, weight) in enumerate(zip(args[:3], layer.in_proj_weight.chunk(3), strict=True)):
            found.setdefault(f"{name}.in_proj/{p}", F.linear(x, weight).double().std(correction=0).item())
        note(f"{name}.out_proj", layer.out_proj, output)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = torch._C._nn.linear(x, weight, bias)
        if id(weight) in owners and weight.shape[0] == getattr(owners[id(weight)][1], "out_features", None):
            note(*owners[id(weight)], y)
        return y

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            handles.append(module.register_forward_hook(lambda m, i, o, name=name: attention(name, m, i, o[0])))
        elif isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(lambda m, _, o, name=name: note(name, m, o)))
    model.eval()
    original, F.linear = F.linear, linear
    try:
        with torch.no_grad():
            model(batch.clone())
    finally:
        F.linear = original
        for handle in handles:
            handle.remove()
    return found


def outcome(run: Callable[[nn.Module, Tensor], str], model: nn.Module, batch: Tensor) -> tuple[dict[str, float], str]:
    """Initialise a model; return the standard deviations, and a note on what went wrong."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        said = run(model, batch.clone())
    except Exception as error:  # an error is a result too
        return {}, f"{type(error).__name__}: {shorten(str(error), 70)}"
    notes = [said] if said else []
    found = deviations(model, batch)
    parameters = dict(model.named_parameters())
    if not all(torch.isfinite(p).all() for p in parameters.values()):
        notes.append("weights not finite")
    changed = {n.rpartition(".")[0] for n, p in parameters.items() if not torch.equal(p.nan_to_num(), before[n])}
    called = {name.rpartition("/")[0] for name in found}
    kinds = {name: model.get_submodule(name) for name in changed}
    if any(isinstance(m, LAYERS) and name not in called for name, m in kinds.items()):
        notes.append("changed a layer that is never called")
    if any(isinstance(m, nn.Embedding) for m in kinds.values()):
        notes.append("changed the embedding")
    return found, ", ".join(notes)


def row(name: str, seed: int) -> str:
    """Format one row of the table."""
    make, shape, dtype = CASES[name]
    torch.manual_seed(seed)
    model = make()
    batch = torch.randn(shape) if dtype.is_floating_point else torch.randint(0, 50, shape)
    model, batch = (model.to(dtype), batch.to(dtype)) if dtype.is_floating_point else (model, batch)
    cells = []
    for run in (theirs, ours):
        torch.manual_seed(seed)
        found, note = outcome(run, copy.deepcopy(model), batch)
        values = list(found.values())
        right = sum(abs(v - 1) <= 0.0102 for v in values)
        spread = f"{right} of {len(values)} right, {min(values):.2f} to {max(values):.2f}" if values else ""
        cells.append("; ".join(part for part in (spread, note) if part))
    return f"| {name} | {cells[0]} | {cells[1]} |"


class Work:
    """Counts multiply-adds, calls of a model and processor seconds inside a `with` block."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.multiply_adds = self.passes = 0

    def __enter__(self) -> "Work":
        def count(module: nn.Module, _: object, output: object) -> None:
            if isinstance(module, LAYERS) and isinstance(output, Tensor):
                self.multiply_adds += output.numel() * module.weight[0].numel()

        self._handles = [
            register_module_forward_hook(count),
            self.model.register_forward_pre_hook(lambda *_: setattr(self, "passes", self.passes + 1)),
        ]
        self._start = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._start
        for handle in self._handles:
            handle.remove()


def costs(name: str, make: Callable[[], nn.Module], shape: tuple[int, ...], seed: int) -> list[str]:
    """Format the rows of one network in the table of costs.

    Args:
        name: name of the network.
        make: makes it.
        shape: shape of the batch.
        seed: seed of the network, the batch and the initialisations.

    Returns:
        A row per way to call LSUV: without the orthonormal start, in forward passes; with it, in seconds.
    """
    torch.manual_seed(seed)
    model, batch = make(), torch.randn(shape)
    count = sum(isinstance(m, LAYERS) for m in model.modules())
    with torch.no_grad(), Work(model.eval()) as once:
        model(batch)
    lines = []
    ways: dict[str, Callable[..., str]] = {
        "`lsuv`": theirs,
        "`lsuv_`, one batch, dropout off": ours,
        "`lsuv_`, fresh batches, dropout on": lambda m, x, **k: ours(m, x, fresh=True, **k),
    }
    for way, run in ways.items():
        copies = [copy.deepcopy(model).train() for _ in range(2)]
        torch.manual_seed(seed)
        with Work(copies[0]) as whole:
            run(copies[0], batch)
        for layer in copies[1].modules():  # both loops begin at the same orthonormal weights
            if isinstance(layer, LAYERS):
                nn.init.orthogonal_(layer.weight)
        with Work(copies[1]) as loop:
            run(copies[1], batch, pre_init=False)
        equal = loop.multiply_adds / once.multiply_adds
        lines.append(
            f"| {name}, {count} layers | {way} | {loop.passes} | {equal:.1f} | {loop.seconds / once.seconds:.1f} "
            f"| {whole.seconds:.2f} |"
        )
    return lines


@app.default
def compare(*, only: str = "", seed: int = 0, threads: int = 1) -> None:
    """Print both tables.

    Args:
        only: Only networks whose name contains this.
        seed: Seed of the networks, the batches and both initialisations.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    print(f"| network | `lsuv` {version('lsuv')} | `lsuv_` |\n|---|---|---|")
    for name in CASES:
        if only in name:
            print(row(name, seed), flush=True)
    print("\n| network | | forward passes started | work, in passes | seconds, in passes | seconds in all |")
    print("|---|---|---|---|---|---|")
    for name, make, shape in (
        ("FitNet-4 (ReLU)", lambda: build(FITNET4, RELU), (128, 3, 32, 32)),
        ("resnet18", tv.resnet18, LARGE),
    ):
        if only in name:
            print("\n".join(costs(name, make, shape, seed)), flush=True)


if __name__ == "__main__":
    sys.exit(run_app(app))

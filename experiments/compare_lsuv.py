"""Compare `replicate.init.lsuv_` with the package `lsuv`: python experiments/compare_lsuv.py.

Both initialise the same networks, with one batch, dropout off and a tolerance of 0.01 on the standard deviation (0.02
on the variance). The result is measured at the first use of each weight, with the code of neither. Prints Markdown.
Networks of timm, transformers, diffusers and torch_geometric are compared where these packages are installed.
"""

import copy
import math
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from textwrap import shorten
from typing import Any, NamedTuple

import lsuv
import torch
import torchvision.models as tv
from compare_lsuv_cases import CASES, LARGE, Case
from compare_lsuv_models import MODELS
from script import make_app, run_app
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode

from replicate.init import LSUVWarning, lsuv_
from replicate.nn.activations import RELU
from replicate.nn.fitnet import FITNET4, build

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, *CONVS)
# What torch calls the products in which a weight is applied, below the functions that users call
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm", "_trilinear"}

HEADING = """# `lsuv_` next to the `lsuv` package

Output of `{command}`: networks with random weights, seed {seed}, one batch, dropout off, one CPU thread unless the
command says otherwise. "Right" means a standard deviation within 0.01 of 1 at the first use of a weight. The smallest
and the largest follow, then what the implementation says, what it changed that it should not, and its time. Weights
that the forward pass standardises are not counted.
"""

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


class Watch(TorchDispatchMode):
    """Measures the output of each weight of a model at its first use, where torch dispatches the product.

    Attributes:
        found: name of the parameter, where its part begins and the number of the piece -> the standard deviation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.found: dict[tuple[str, int, int], float] = {}
        self.kept: list[Tensor] = []  # so that the memory of a computed weight is not used again
        self.owners = {}
        for module_name, module in model.named_modules():
            for name, parameter in module.named_parameters(module_name, recurse=False):
                if not isinstance(module, nn.Embedding):
                    self.owners[address(parameter)] = name, module, parameter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_weight_norm_interface":
            self.owners[address(output[0])] = self.owners[address(args[0])]
            self.kept.append(output[0])
        elif name in PRODUCTS:
            tensors = [one for one in args if isinstance(one, Tensor)]
            applied = [(*self.owners[address(one)], one) for one in tensors if address(one) in self.owners]
            applied = [entry for entry in applied if entry[2].ndim > 1]  # not the bias
            if len(applied) == 1:
                self.note(*applied[0], output, channels=1 if name == "convolution" else output.ndim - 1)
        return output

    def note(
        self, name: str, module: nn.Module, parameter: Tensor, view: Tensor, output: Tensor, channels: int
    ) -> None:
        """Note the deviations of the pieces of a maxout layer, of query, key and value, or of the whole output."""
        pieces = getattr(module, "pieces", 1)
        parts = output.unflatten(channels, (-1, pieces)).unbind(channels + 1)
        if name.endswith("in_proj_weight"):
            parts = output.chunk(output.shape[-1] // parameter.shape[1], -1)
        for piece, part in enumerate(parts):
            key = name, view.storage_offset() - parameter.storage_offset(), piece
            self.found.setdefault(key, part.double().std(correction=0).item())


def address(tensor: Tensor) -> int:
    """Return the address of a tensor's memory, which its views share."""
    return tensor.untyped_storage().data_ptr()


def deviations(model: nn.Module, batch: Tensor) -> dict[tuple[str, int, int], float]:
    """Measure the standard deviation of each weight's output at its first use, in evaluation mode: see `Watch`."""
    with torch.no_grad(), Watch(model.eval()) as watch:
        model(batch.clone())
    return watch.found


class Outcome(NamedTuple):
    """What an implementation made of a model.

    Args:
        deviations: of the outputs of its weights.
        note: what it said, and what went wrong.
        seconds: that it took.
    """

    deviations: list[float]
    note: str
    seconds: float

    @property
    def right(self) -> int:
        """Number of weights with a deviation of 1."""
        return sum(abs(deviation - 1) <= 0.0102 for deviation in self.deviations)

    def cell(self) -> str:
        """Format it for the table."""
        found = self.deviations
        spread = f"{self.right} of {len(found)} right, {min(found):.3g} to {max(found):.3g}" if found else ""
        return "; ".join(part for part in (spread, self.note, f"{self.seconds:.1f} s") if part)


def outcome(run: Callable[[nn.Module, Tensor], str], model: nn.Module, batch: Tensor) -> Outcome:
    """Initialise a model by one of the implementations."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    started_at = time.perf_counter()
    try:
        said = run(model, batch.clone())
    except Exception as error:  # an error is a result too
        return Outcome([], f"{type(error).__name__}: {shorten(str(error), 70)}", time.perf_counter() - started_at)
    seconds = time.perf_counter() - started_at
    notes = [said] if said else []
    found = deviations(model, batch)
    changed = {name: p for name, p in model.named_parameters() if not torch.equal(p.nan_to_num(), before[name])}
    matrices = {name: p for name, p in changed.items() if p.ndim > 1}
    if not all(torch.isfinite(p).all() for p in changed.values()):
        notes.append("weights not finite")
    modules = {name.rpartition(".")[0] for name in matrices}
    if any(isinstance(model.get_submodule(module), nn.Embedding) for module in modules):
        notes.append("changed the embedding")
    elif modules - {name.rpartition(".")[0] for name, *_ in found}:
        notes.append("changed a layer that is never called")
    factors = [float(p.detach().norm() / before[name].norm()) for name, p in matrices.items() if before[name].any()]
    wildest = max(factors, key=lambda factor: abs(math.log10(factor or 1)), default=1)
    if not 1e-3 < wildest < 1e3:
        notes.append(f"a weight {wildest:.0e} times as large")
    return Outcome(list(found.values()), ", ".join(notes), seconds)


def compare_one(case: Case, seed: int) -> list[Outcome]:
    """Initialise a network by both implementations, theirs first."""
    torch.manual_seed(seed)
    model = case.make()
    batch = torch.randn(case.shape) if case.dtype.is_floating_point else torch.randint(3, 50, case.shape)
    model, batch = (model.to(case.dtype), batch.to(case.dtype)) if case.dtype.is_floating_point else (model, batch)
    outcomes = []
    for run in (theirs, ours):
        torch.manual_seed(seed)
        outcomes.append(outcome(run, copy.deepcopy(model), batch))
    return outcomes


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
    """Print a table of networks, how often all their weights are right, and a table of costs.

    Args:
        only: Only networks whose name contains this.
        seed: Seed of the networks, the batches and both initialisations.
        threads: CPU threads.
    """
    torch.set_num_threads(threads)
    torch.backends.mha.set_fastpath_enabled(False)  # it hides the products of attention
    print(HEADING.format(command=" ".join(["python experiments/compare_lsuv.py", *sys.argv[1:]]), seed=seed))
    print(f"| network | `lsuv` {version('lsuv')} | `lsuv_` |\n|---|---|---|")
    compared, missing = [], set()
    for name, case in {**CASES, **MODELS}.items():
        if only not in name:
            continue
        try:
            outcomes = compare_one(case, seed)
        except ModuleNotFoundError as error:
            missing.add(error.name)
            continue
        compared.append(outcomes)
        print(f"| {name} | {outcomes[0].cell()} | {outcomes[1].cell()} |", flush=True)
    all_right = [sum(one.right == len(one.deviations) > 0 for one in column) for column in zip(*compared, strict=True)]
    if all_right:
        print(f"| all weights right | {' | '.join(f'{count} of {len(compared)}' for count in all_right)} |")
    if missing:
        print(f"\nNot compared, because packages are not installed: {', '.join(sorted(missing))}.")
    print("\n## Cost\n\nForward passes and their work without the orthonormal start; time in all with it.")
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

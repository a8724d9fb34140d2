"""Lay `replicate.init.lsuv_` beside `lsuv` from the package index: python experiments/compare_lsuv.py.

Both get the same models, one batch, dropout off and a margin of 0.01 on the standard deviation (0.02 on the variance).
What comes of it is measured at the moment of each layer's first call, by means of neither. Prints Markdown.
"""

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from textwrap import shorten

import lsuv
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook
from torchvision.models.convnext import CNBlockConfig

from replicate.init import LSUVWarning, lsuv_
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, nn.Bilinear, *CONVS)


class Graph(nn.Module):
    """Layers by name, and a function of them and the input."""

    def __init__(self, layers: dict[str, nn.Module], run: Callable[["Graph", Tensor], Tensor]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function."""
        return self.run(self, x)


class Scale(nn.Module):
    """Multiply by a constant: 0 is an activation that has died."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Scale."""
        return x * self.factor


def _two_parents() -> nn.Module:
    common = nn.Linear(64, 64)
    late = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), common)
    return Graph(
        {"late": late, "early": nn.Sequential(common, nn.Tanh(), nn.Linear(64, 64))}, lambda m, x: m.late(m.early(x))
    )


def _tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 50, bias=False))
    model[3].weight = model[0].weight
    return model


def _vgg() -> nn.Module:
    sizes = [3, 16, 16, 32, 32, 48, 48, 64, 64]
    convs = [m for i, o in pairwise(sizes) for m in (nn.Conv2d(i, o, 3, padding=1), nn.ReLU(True))]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *_dense(64, 64, 64, 10))


def _dense(*sizes: int) -> list[nn.Module]:
    return [m for i, o in pairwise(sizes) for m in (nn.Linear(i, o), nn.ReLU())][:-1]


def _reversed() -> nn.Module:
    names = ["d", "c", "b", "a"]
    return Graph({n: nn.Linear(64, 64) for n in names}, lambda m, x: m.d(F.relu(m.c(F.relu(m.b(F.relu(m.a(x))))))))


def _unused() -> nn.Module:
    return Graph({n: nn.Linear(64, 64) for n in ("a", "never", "b")}, lambda m, x: m.b(F.relu(m.a(x))))


def _bilinear() -> nn.Module:
    return Graph({"a": nn.Linear(64, 16), "b": nn.Bilinear(16, 16, 8)}, lambda m, x: m.b(m.a(x), torch.tanh(m.a(x))))


def _maxout() -> nn.Module:
    return build(FITNET4, ACTIVATIONS["maxout"], width=0.25)


def _normed() -> nn.Module:
    return nn.Sequential(*_dense(64, 64), nn.utils.parametrizations.weight_norm(nn.Linear(64, 8)))


FLAT, IMAGES, LARGE = (64, 64), (32, 3, 32, 32), (16, 3, 64, 64)
# What a network is a case of: the network, the shape of the batch, the dtype
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], torch.dtype]] = {
    "a plain chain": (lambda: nn.Sequential(*_dense(64, 64, 64, 64, 10)), FLAT, torch.float32),
    "registered in another order than called": (_reversed, FLAT, torch.float32),
    "one layer under two parents": (_two_parents, FLAT, torch.float32),
    "in-place activations (VGG-like)": (_vgg, IMAGES, torch.float32),
    "a layer that is never called": (_unused, FLAT, torch.float32),
    "a layer without variance (dead input)": (
        lambda: nn.Sequential(*_dense(64, 64), Scale(0), nn.Linear(64, 8)),
        FLAT,
        torch.float32,
    ),
    "a head whose weight is the embedding's": (_tied, (16, 10), torch.int64),
    "bilinear": (_bilinear, FLAT, torch.float32),
    "maxout, each piece on its own (FitNet-4, width 1/4)": (_maxout, IMAGES, torch.float32),
    "weight_norm": (_normed, FLAT, torch.float32),
    "bfloat16 on a CPU": (lambda: nn.Sequential(*_dense(64, 64, 64, 10)), FLAT, torch.bfloat16),
    "torchvision resnet18": (tv.resnet18, LARGE, torch.float32),
    "torchvision densenet121": (tv.densenet121, LARGE, torch.float32),
    "torchvision mobilenet_v3_small": (tv.mobilenet_v3_small, LARGE, torch.float32),
    "torchvision efficientnet_b0": (tv.efficientnet_b0, LARGE, torch.float32),
    "torchvision googlenet": (lambda: tv.googlenet(init_weights=False, aux_logits=True), LARGE, torch.float32),
    "torchvision squeezenet1_1": (tv.squeezenet1_1, LARGE, torch.float32),
    "torchvision ConvNeXt (2 stages)": (
        lambda: tv.ConvNeXt([CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 2)]),
        LARGE,
        torch.float32,
    ),
    "torchvision VisionTransformer (4 blocks)": (
        lambda: tv.VisionTransformer(64, 16, 4, 4, 128, 256),
        LARGE,
        torch.float32,
    ),
    "torchvision SwinTransformer (2 stages)": (
        lambda: tv.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4]),
        LARGE,
        torch.float32,
    ),
}


def ours(model: nn.Module, batch: Tensor, *, pre_init: bool = True, fresh: bool = False) -> str:
    """Run this project's; give what it reports beside `converged`."""
    start = "orthonormal" if pre_init else None
    batches = (lambda: torch.randn_like(batch)) if fresh else batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LSUVWarning)
        report = lsuv_(model, batches, dropout=fresh, pre_init=start)
    return ", ".join(f"says “{status}”" for status in sorted({row.status or "" for row in report} - {"converged"}))


def theirs(model: nn.Module, batch: Tensor, *, pre_init: bool = True) -> str:
    """Run the other one; it prints, if anything."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lsuv.lsuv_with_singlebatch(
            model, batch, std_tol=0.01, max_attempts=20, do_orthonorm=pre_init, verbose=False, device=batch.device
        )
    return "warned" if any("LSUV" in str(w.message) for w in caught) else ""


@dataclass(frozen=True)
class Outcome:
    """What an initialisation made of one model."""

    deviations: dict[str, float]
    note: str


def deviations(model: nn.Module, batch: Tensor) -> dict[str, float]:
    """Standard deviation of each pre-activation at its first call, pieces apart, in evaluation mode.

    By plain forward hooks; the weights of attention that functions apply are watched where they are applied.
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


def outcome(run: Callable[[nn.Module, Tensor], str], model: nn.Module, batch: Tensor) -> Outcome:
    """Initialise a model and see what came of it."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        said = run(model, batch.clone())
    except Exception as error:  # whatever it is, it is the result
        return Outcome({}, f"{type(error).__name__}: {shorten(str(error), 70)}")
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
    return Outcome(found, ", ".join(notes))


def row(name: str, seed: int) -> str:
    """One line of the table."""
    make, shape, dtype = CASES[name]
    torch.manual_seed(seed)
    model = make()
    batch = torch.randn(shape) if dtype.is_floating_point else torch.randint(0, 50, shape)
    model, batch = (model.to(dtype), batch.to(dtype)) if dtype.is_floating_point else (model, batch)
    cells = []
    for run in (theirs, ours):
        torch.manual_seed(seed)
        result = outcome(run, copy.deepcopy(model), batch)
        values = list(result.deviations.values())
        right = sum(abs(v - 1) <= 0.0102 for v in values)
        spread = f"{right} of {len(values)} right, {min(values):.2f} to {max(values):.2f}" if values else ""
        cells.append("; ".join(part for part in (spread, result.note) if part))
    return f"| {name} | {cells[0]} | {cells[1]} |"


class Work:
    """Counts multiply-adds and calls of a model while it is open, and the seconds of the processor."""

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
    """Lines of the table of costs, per forward pass without the orthonormal start, and in seconds with it."""
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


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="Lay lsuv_ beside lsuv from the package index.")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"| network | `lsuv` {version('lsuv')} | `lsuv_` |\n|---|---|---|")
    for name in CASES:
        if args.only in name:
            print(row(name, args.seed), flush=True)
    columns = (
        "network",
        "",
        "forward passes begun",
        "their work, in passes",
        "their seconds, in passes",
        "all, in seconds",
    )
    print(f"\n| {' | '.join(columns)} |")
    print("|---|---|---|---|---|---|")
    fitnet = lambda: build(FITNET4, ACTIVATIONS["relu"])  # noqa: E731
    for name, make, shape in (("FitNet-4 (ReLU)", fitnet, (128, 3, 32, 32)), ("resnet18", tv.resnet18, LARGE)):
        if args.only in name:
            print("\n".join(costs(name, make, shape, args.seed)), flush=True)


if __name__ == "__main__":
    main()

"""Run: one training as plain data, its validation, and the run_id that names its folder."""

import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields

from replicate.errors import UsageError, unknown

# The registries of `replicate.init`, `replicate.nn` and `replicate.data` are keyed by these tuples; a test compares.
INITS = ("lsuv", "orthonormal", "orthonormal_msra", "xavier", "msra")
ACTIVATIONS = ("maxout", "relu", "vlrelu", "tanh", "sigmoid")
MODELS = ("fitnet4",)
DATASETS = ("cifar10", "synthetic", "folder:NAME")
FOLDER = r"folder:[A-Za-z0-9][A-Za-z0-9._-]*"
PREPROCESSINGS = ("gcn-mean-image",)
PRECISIONS = ("32-true", "bf16-mixed")


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that can change the number one training yields. The defaults are the paper's protocol (Table 3).

    Values are coerced to the declared types (YAML reads `5e-4` as a string and `1` as an integer) and checked here,
    nowhere else.

    Args:
        init: weight initialisation, one of INITS.
        activation: nonlinearity, one of ACTIVATIONS.
        seed: seed of every random stream of the run, 0 to 2**31 - 1.
        model: architecture, one of MODELS.
        width: factor on the number of channels and hidden units.
        dataset: `cifar10`, `synthetic` or `folder:NAME`.
        preprocessing: one of PREPROCESSINGS.
        pad: zero pixels added on each side before the random crop.
        mirror: mirror training images with probability 1/2.
        dropout: probability at every dropout of the network, the input's included.
        batch_size: images in a training batch.
        iterations: optimiser steps.
        milestones: iterations at which the learning rate is multiplied by lr_factor.
        lr: initial learning rate.
        lr_factor: see milestones.
        momentum: SGD momentum.
        weight_decay: L2 factor on weights; biases have none.
        clip_norm: gradient-norm clipping, null for none.
        precision: one of PRECISIONS; `32-true` means TF32 off.
        lsuv_tol: LSUV stops at |variance - 1| <= lsuv_tol.
        lsuv_max_iter: LSUV rescales a layer at most that often.
        lsuv_batch_size: images in a batch of LSUV.
        lsuv_dropout: dropout is active while LSUV measures, as in the released code.

    Raises:
        UsageError: a value of the wrong type, out of range, or an unknown name.
    """

    init: str
    activation: str
    seed: int = 0
    model: str = "fitnet4"
    width: float = 1.0
    dataset: str = "cifar10"
    preprocessing: str = "gcn-mean-image"
    pad: int = 8
    mirror: bool = True
    dropout: float = 0.2
    batch_size: int = 128
    iterations: int = 90_000
    milestones: tuple[int, ...] = (40_000, 60_000, 80_000)
    lr: float = 0.01
    lr_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    precision: str = "bf16-mixed"
    lsuv_tol: float = 0.02
    lsuv_max_iter: int = 20
    lsuv_batch_size: int = 128
    lsuv_dropout: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, coerce(field.name, getattr(self, field.name)))
        for kind, choices in CHOICES.items():
            if getattr(self, kind) not in choices:
                raise unknown(kind, getattr(self, kind), choices)
        if self.dataset not in DATASETS[:2] and not re.fullmatch(FOLDER, self.dataset):
            raise unknown("dataset", self.dataset, DATASETS)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} = {value!r} is out of range; give a value from {low:g} to {high:g}")
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise UsageError(f"milestones = {list(self.milestones)} must increase")
        if self.milestones and not 0 < self.milestones[0] <= self.milestones[-1] < self.iterations:
            raise UsageError(
                f"milestones = {list(self.milestones)} must lie between 1 and iterations - 1 = {self.iterations - 1}; "
                "with other iterations give other milestones, such as milestones=40,60 or milestones=[]"
            )

    @property
    def run_id(self) -> str:
        """Name of the run's folder, such as `lsuv-maxout-s0-3f9a1c2e`; equal exactly for equal settings."""
        settings = {one.name: getattr(self, one.name) for one in fields(self)}  # asdict would copy each
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.init}-{self.activation}-s{self.seed}-{digest[:8]}"


# Smallest and largest value that is not surely a slip of the hand; the choice of the bounds is ours.
RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**31 - 1),
    "width": (1 / 64, 64),
    "pad": (0, 32),
    "dropout": (0, 0.95),
    "batch_size": (1, 65_536),
    "iterations": (1, 100_000_000),
    "lr": (1e-12, 1e3),
    "lr_factor": (1e-6, 1),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 10),
    "clip_norm": (1e-9, 1e9),
    "lsuv_tol": (1e-6, 1),
    "lsuv_max_iter": (0, 1000),
    "lsuv_batch_size": (2, 65_536),
}
CHOICES = {
    "init": INITS,
    "activation": ACTIVATIONS,
    "model": MODELS,
    "preprocessing": PREPROCESSINGS,
    "precision": PRECISIONS,
}
TYPES: dict[str, typing.Any] = typing.get_type_hints(Run)
DEFAULTS = {field.name: field.default for field in fields(Run) if field.default is not MISSING}


def coerce(name: str, value: object) -> typing.Any:
    """Turn the value of a Run's field into its declared type.

    Args:
        name: a field of Run.
        value: as read from YAML, JSON or the command line.

    Raises:
        UsageError: unknown field, or a value that is not of its type.
    """
    if name not in TYPES:
        raise unknown("field of a run", name, TYPES)
    wanted = TYPES[name]
    try:
        if isinstance(wanted, types.UnionType):
            return None if value is None else _scalar(typing.get_args(wanted)[0], value)
        if typing.get_origin(wanted) is tuple:
            if not isinstance(value, list | tuple):
                raise ValueError
            return tuple(_scalar(int, item) for item in value)
        return _scalar(wanted, value)
    except (ValueError, TypeError, OverflowError):
        kind = {"milestones": "a list of whole numbers", "clip_norm": "a number or null"}.get(name)
        kind = kind or {int: "a whole number", float: "a number", bool: "true or false", str: "a name"}[wanted]
        raise UsageError(f"{name} must be {kind}, not {value!r}") from None


def checked(name: str, value: object) -> typing.Any:
    """Coerce the value of a Run's field, and check it against the known names.

    Raises:
        UsageError: unknown field, wrong type, or a name that is not among the field's choices.
    """
    value = coerce(name, value)
    if name in CHOICES and value not in CHOICES[name]:
        raise unknown(name, value, CHOICES[name])
    return value


def matches(settings: Mapping[str, typing.Any], pattern: Mapping[str, typing.Any]) -> bool:
    """Whether settings of a run, by field, have the values that a pattern names."""
    return all(settings.get(key) == value for key, value in pattern.items())


def _scalar(kind: type, value: object) -> object:
    if kind is str or kind is bool:
        if not isinstance(value, kind):
            raise ValueError
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    if kind is float:
        return number
    if not number.is_integer():
        raise ValueError
    return int(number)

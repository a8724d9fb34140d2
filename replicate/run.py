"""Run: one training as plain data, its checks, and the run_id that names its folder."""

import hashlib
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Self, TypeVar

import pydantic.dataclasses
from pydantic import Field, ModelWrapValidatorHandler, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from replicate import plugins
from replicate.errors import UsageError, explain, unknown
from replicate.field_types import STRICT, WHOLE, one_of
from replicate.names import ACTIVATIONS, CIFAR_SHAPE, DATASETS, INITS, MODELS, PREPROCESSINGS, RESIDUAL, SHAPES

FOLDER = r"folder:[A-Za-z0-9][A-Za-z0-9._-]{0,254}"  # as long as a file system lets a name be
T = TypeVar("T")
PRECISIONS = ("32-true", "bf16-mixed")
OPTIMIZERS = ("sgd", "nesterov", "rmsprop", "adam")
CAPTURED = ("sgd",)  # those whose steps a CUDA graph can replay and check
LSUV_DATA = ("training", "synthetic", "noise")
LSUV_STARTS = ("orthonormal", "xavier", "msra")  # orthonormal, uniform, normal


def known_init(name: str) -> str:
    """Return the name of an initialisation at hand: of the package or of a plugin. Raises UsageError if it is not."""
    if not plugins.has(name):
        names = [*INITS, *(name for plugin in plugins.registered() for name, _ in plugin.inits)]
        raise UsageError(f"{unknown('init', name, names)}; one of your own needs --plugin FILE")
    return name


def checked(validate: Callable[[Any], T], data: object) -> T:
    """Validate data with pydantic. Raises UsageError, one sentence, if they are wrong."""
    try:
        return validate(data)
    except ValidationError as error:
        raise UsageError(explain(error, {"": TYPES}, "a run")) from None


@pydantic.dataclasses.dataclass(frozen=True, slots=True, config=STRICT)
class Run:
    """Everything that can change the result of one training. The defaults are the paper's protocol (Table 3).

    The bounds exclude values that are almost certainly typing errors. They are our choice.

    Raises:
        UsageError: a value of the wrong type, out of range, or an unknown name.
    """

    init: Annotated[
        str,
        one_of("init", INITS, plugins.NAME),  # __post_init__ checks more
        Field(description="weight initialisation"),
    ]
    activation: Annotated[str, one_of("activation", ACTIVATIONS), Field(description="nonlinearity")]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="seed of every random stream of the run"), WHOLE] = 0
    model: Annotated[str, one_of("model", MODELS), Field(description="architecture")] = "fitnet4"
    width: Annotated[float, Field(ge=1 / 64, le=64, description="factor on the channels and hidden units")] = 1.0
    dataset: Annotated[
        str,
        one_of("dataset", DATASETS, "|".join([*(name for name in DATASETS if ":" not in name), FOLDER])),
        Field(description="cifar10, cifar100, mnist, synthetic or folder:NAME, which is DATA_DIR/NAME"),
    ] = "cifar10"
    validation: Annotated[
        int,
        Field(ge=0, le=1_000_000, description="training images held out, to test on instead; 0: the test images"),
        WHOLE,
    ] = 0
    preprocessing: Annotated[
        str, one_of("preprocessing", PREPROCESSINGS), Field(description="what is done to the pixels")
    ] = "gcn-mean-image"
    input_scale: Annotated[
        float, Field(ge=1e-3, le=1e3, description="factor on the preprocessed images; the paper's is inferred")
    ] = 0.7
    pad: Annotated[int, Field(ge=0, le=32, description="zero pixels on each side before the random crop"), WHOLE] = 8
    mirror: Annotated[bool, Field(description="mirror training images with probability 1/2")] = True
    zoom: Annotated[float, Field(ge=0, le=0.9, description="scale training images by 1 - zoom to 1 + zoom")] = 0.0
    colour_jitter: Annotated[
        float, Field(ge=0, le=1, description="strength of random factors on images and shifts of channels")
    ] = 0.0
    cutout: Annotated[int, Field(ge=0, le=32, description="side of a square set to zero; 0: none"), WHOLE] = 0
    dropout: Annotated[
        float, Field(ge=0, le=0.95, description="probability at every dropout, the input's included")
    ] = 0.2
    batch_size: Annotated[int, Field(ge=1, le=65_536, description="images per training batch"), WHOLE] = 128
    iterations: Annotated[int, Field(ge=1, le=100_000_000, description="optimiser steps"), WHOLE] = 90_000
    milestones: Annotated[
        tuple[Annotated[int, WHOLE], ...],
        Field(
            strict=False, max_length=100, description="iterations at which the learning rate is multiplied by lr_factor"
        ),
    ] = (40_000, 60_000, 80_000)
    lr: Annotated[float, Field(ge=1e-12, le=1e3, description="initial learning rate")] = 0.01
    lr_factor: Annotated[float, Field(ge=1e-6, le=1, description="factor on the learning rate at a milestone")] = 0.1
    optimizer: Annotated[str, one_of("optimizer", OPTIMIZERS), Field(description="rmsprop is Caffe's")] = "sgd"
    momentum: Annotated[float, Field(ge=0, le=0.9999, description="momentum of SGD, beta1 of Adam")] = 0.9
    square_decay: Annotated[
        Annotated[float, Field(ge=0, le=0.999999)] | None,
        Field(description="decay of the mean squared gradient; null: 0.99 for rmsprop, 0.999 for adam (its beta2)"),
    ] = None
    weight_decay: Annotated[float, Field(ge=0, le=10, description="L2 factor on weights; biases have none")] = 5e-4
    clip_norm: Annotated[
        Annotated[float, Field(ge=1e-9, le=1e9)] | None, Field(description="gradient-norm clipping; null: none")
    ] = None
    ema: Annotated[
        float, Field(ge=0, le=0.99999, description="decay of an average of the weights, which only tests use; 0: none")
    ] = 0.0
    test_mirror: Annotated[
        bool, Field(description="test on each image and its mirror image, with the mean probabilities")
    ] = False
    precision: Annotated[str, one_of("precision", PRECISIONS), Field(description="32-true also turns TF32 off")] = (
        "bf16-mixed"
    )
    lsuv_tol: Annotated[float, Field(ge=1e-6, le=1, description="LSUV stops at |variance - 1| <= lsuv_tol")] = 0.02
    lsuv_max_iter: Annotated[int, Field(ge=0, le=1000, description="most rescalings per layer in LSUV"), WHOLE] = 20
    lsuv_batch_size: Annotated[int, Field(ge=2, le=65_536, description="images per batch of LSUV"), WHOLE] = 128
    lsuv_dropout: Annotated[
        bool, Field(description="dropout is active while LSUV measures, as in the released code")
    ] = True
    lsuv_start: Annotated[
        str, one_of("lsuv_start", LSUV_STARTS), Field(description="the weights that LSUV starts with")
    ] = "orthonormal"
    lsuv_pieces: Annotated[
        bool, Field(description="LSUV draws and rescales each maxout piece on its own; false: the layer as a whole")
    ] = True
    lsuv_data: Annotated[
        str, one_of("lsuv_data", LSUV_DATA), Field(description="the images that the initialisation sees")
    ] = "training"
    plugin: Annotated[
        Annotated[str, one_of("digest of a plugin", ["sha256: and 16 digits 0-9a-f"], plugins.DIGEST)] | None,
        Field(description="digest of the file that init is from, as --plugin sets it; null: init is the package's"),
    ] = None

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _in_one_sentence(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return checked(handler, data)

    def __post_init__(self) -> None:
        if self.init in INITS:
            object.__setattr__(self, "plugin", None)
        elif self.plugin is None:  # a run that names a plugin can be read without it
            known_init(self.init)
            if (plugin := plugins.find(self.init)) is not None:
                object.__setattr__(self, "plugin", plugin.digest)
        if self.dataset in DATASETS:
            self.check_images(SHAPES.get(self.dataset, CIFAR_SHAPE))
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise UsageError(f"milestones = {list(self.milestones)} must increase")
        if self.milestones and not 0 < self.milestones[0] <= self.milestones[-1] < self.iterations:
            raise UsageError(
                f"milestones = {list(self.milestones)} must lie between 1 and iterations - 1 = {self.iterations - 1}; "
                "with other iterations give other milestones, such as milestones=40,60 or milestones=[]"
            )
        if self.optimizer == "rmsprop" and self.momentum:
            raise UsageError(f"momentum = {self.momentum:g}, but rmsprop has none, as in Caffe; give momentum = 0")
        if self.optimizer == "nesterov" and not self.momentum:
            raise UsageError("momentum = 0, but nesterov needs one; give more, or optimizer = sgd")
        if self.init == "fixup" and self.model not in RESIDUAL:
            raise UsageError(f"init = fixup needs residual branches; give model = {' or '.join(RESIDUAL)}")
        if self.square_decay is not None and self.optimizer not in ("rmsprop", "adam"):
            raise UsageError(f"square_decay is for rmsprop and adam, and the optimizer is {self.optimizer}")

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Check that the model takes the images of the data set.

        Args:
            shape: theirs: channels, height, width.

        Raises:
            UsageError: it takes others.
        """
        takes = SHAPES.get(self.model, CIFAR_SHAPE)
        if shape != takes:
            theirs, ours = ("×".join(map(str, one)) for one in (shape, takes))
            problem = f"the images of {self.dataset} have {theirs} values, and model {self.model} takes {ours}"
            fitting = ", ".join(name for name in MODELS if SHAPES.get(name, CIFAR_SHAPE) == shape)
            raise UsageError(f"{problem}; for these images choose model from: {fitting}")
        if self.lsuv_data == "synthetic" and shape != CIFAR_SHAPE:
            raise UsageError(f"lsuv_data = synthetic has other images than {self.dataset}; choose training or noise")

    def has(self, settings: Mapping[str, Any]) -> bool:
        """Whether the run has these values of some of its fields."""
        return all(getattr(self, name) == value for name, value in settings.items())

    @property
    def run_id(self) -> str:
        """Name of the run's folder, such as `lsuv-maxout-s0-3f9a1c2e`. It is the same if all settings are equal."""
        settings = {one.name: getattr(self, one.name) for one in fields(self)}  # asdict would copy each
        counted = {name: value for name, value in settings.items() if name not in LATER or value != LATER[name]}
        text = json.dumps(counted, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.init}-{self.activation}-s{self.seed}-{digest[:8]}"


# Fields that schema 1 did not have, with the value that records without them had. At this value a field does not count
# in the run_id, so finished runs keep their names. These values never change, even if a default does.
LATER: Mapping[str, Any] = {
    "validation": 0,
    "input_scale": 1.0,
    "zoom": 0.0,
    "colour_jitter": 0.0,
    "cutout": 0,
    "ema": 0.0,
    "test_mirror": False,
    "optimizer": "sgd",
    "square_decay": None,
    "lsuv_start": "orthonormal",
    "lsuv_pieces": True,
    "lsuv_data": "training",
    "plugin": None,
}

DEFAULTS = {field.name: field.default for field in fields(Run) if field.default is not MISSING}
INIT = Annotated[
    str,
    pydantic.AfterValidator(known_init),
    Field(
        description="weight initialisation",
        json_schema_extra={"pattern": f"^{plugins.NAME}$", "examples": [*INITS]},  # plugins add names
    ),
]
TYPES: Mapping[str, Any] = {**typing.get_type_hints(Run, include_extras=True), "init": INIT}

if typing.TYPE_CHECKING:
    Settings = dict[str, Any]
else:
    Settings = TypedDict("Settings", TYPES, total=False)  # values of some fields of a Run, by field
    Settings.__pydantic_config__ = STRICT
_SETTINGS = TypeAdapter[dict[str, Any]](Settings)


def check_settings(settings: Mapping[str, object]) -> dict[str, Any]:
    """Check values of some of a Run's fields.

    Args:
        settings: field of Run -> value, as read from YAML or the command line.

    Returns:
        The values in their declared types.

    Raises:
        UsageError: unknown field, wrong type, out of range, or an unknown name.
    """
    return checked(_SETTINGS.validate_python, settings)

"""The registries: every name leads to an object of the right kind."""

from replicate.names import ACTIVATIONS, CIFAR_SHAPE, DATASETS, INITS, MODELS, PREPROCESSINGS, SHAPES, resolve
from replicate.nn.activations import Activation


def test_every_name_can_be_imported() -> None:
    assert all(isinstance(resolve(path), Activation) for path in ACTIVATIONS.values())
    for name, path in MODELS.items():
        channels, side = resolve(path)[0]
        assert (channels, side, side) == SHAPES.get(name, CIFAR_SHAPE)
    assert all(callable(resolve(path)) for path in (*INITS.values(), *DATASETS.values(), *PREPROCESSINGS.values()))

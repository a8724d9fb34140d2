"""The registries: every name leads to an object of the right kind."""

from replicate.names import ACTIVATIONS, DATASETS, INITS, MODELS, PREPROCESSINGS, resolve
from replicate.nn.activations import Activation


def test_every_name_can_be_imported() -> None:
    assert all(isinstance(resolve(path), Activation) for path in ACTIVATIONS.values())
    assert all(isinstance(resolve(path), tuple) for path in MODELS.values())
    assert all(callable(resolve(path)) for path in (*INITS.values(), *DATASETS.values(), *PREPROCESSINGS.values()))

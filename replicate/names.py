"""The names that settings of a run can take, and where the object behind each name is found.

To add an initialisation, activation, model, data set or preprocessing, write it and add one line here.
"""

import pkgutil
from typing import Any

INITS = {
    "lsuv": "replicate.init.schemes:orthonormal",  # the weights that LSUV then rescales
    "orthonormal": "replicate.init.schemes:orthonormal",
    "orthonormal_msra": "replicate.init.schemes:orthonormal_msra",
    "xavier": "replicate.init.schemes:xavier",
    "msra": "replicate.init.schemes:msra",
}
ACTIVATIONS = {
    "maxout": "replicate.nn.activations:MAXOUT",
    "relu": "replicate.nn.activations:RELU",
    "vlrelu": "replicate.nn.activations:VLRELU",
    "tanh": "replicate.nn.activations:TANH",
    "sigmoid": "replicate.nn.activations:SIGMOID",
}
MODELS = {"fitnet4": "replicate.nn.fitnet:FITNET4"}
DATASETS = {
    "cifar10": "replicate.data.cifar10:load",
    "synthetic": "replicate.data.synthetic:load",
    "folder:NAME": "replicate.data.folder:load",
}
PREPROCESSINGS = {"gcn-mean-image": "replicate.data.batches:gcn_mean_image"}


def modules() -> list[str]:
    """List the modules of all named objects."""
    named = (INITS, ACTIVATIONS, MODELS, DATASETS, PREPROCESSINGS)
    return sorted({path.partition(":")[0] for registry in named for path in registry.values()})


def resolve(path: str) -> Any:
    """Import the object that `module:name` names."""
    return pkgutil.resolve_name(path)

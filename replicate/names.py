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
    "zeros": "replicate.init.other_schemes:zeros",
    "small_gaussian": "replicate.init.other_schemes:small_gaussian",
    "large_gaussian": "replicate.init.other_schemes:large_gaussian",
    "torch_default": "replicate.init.other_schemes:torch_default",
    "xavier_uniform": "replicate.init.other_schemes:xavier_uniform",
    "xavier_normal": "replicate.init.other_schemes:xavier_normal",
    "kaiming_uniform_fan_in": "replicate.init.other_schemes:kaiming_uniform_fan_in",
    "kaiming_normal_fan_in": "replicate.init.other_schemes:kaiming_normal_fan_in",
    "kaiming_uniform_fan_out": "replicate.init.other_schemes:kaiming_uniform_fan_out",
    "kaiming_normal_fan_out": "replicate.init.other_schemes:kaiming_normal_fan_out",
    "delta_orthogonal": "replicate.init.other_schemes:delta_orthogonal",
    "random_walk": "replicate.init.other_schemes:random_walk",
    "maxout_normal": "replicate.init.other_model_inits:maxout_normal",
    "krahenbuhl": "replicate.init.other_model_inits:krahenbuhl",
    "fixup": "replicate.init.other_model_inits:fixup",
    "metainit": "replicate.init.other_model_inits:metainit",
    "autoinit": "replicate.init.autoinit:autoinit",
}
ACTIVATIONS = {
    "maxout": "replicate.nn.activations:MAXOUT",
    "relu": "replicate.nn.activations:RELU",
    "vlrelu": "replicate.nn.activations:VLRELU",
    "tanh": "replicate.nn.activations:TANH",
    "sigmoid": "replicate.nn.activations:SIGMOID",
    "leaky_relu": "replicate.nn.activations:LEAKY_RELU",
    "leaky_relu_0.1": "replicate.nn.activations:LEAKY_RELU_01",
    "prelu": "replicate.nn.activations:PRELU",
    "elu": "replicate.nn.activations:ELU",
    "selu": "replicate.nn.activations:SELU",
    "silu": "replicate.nn.activations:SILU",
    "gelu": "replicate.nn.activations:GELU",
}
MODELS = {
    "fitnet4": "replicate.nn.fitnet:FITNET4",
    "fitnet4_x2": "replicate.nn.fitnet:FITNET4_X2",
    "fitnet4_x3": "replicate.nn.fitnet:FITNET4_X3",
    "fitnet4_x5": "replicate.nn.fitnet:FITNET4_X5",
    "fitnet1": "replicate.nn.fitnet:FITNET1",
    "fitresnet4": "replicate.nn.fitnet:FITRESNET4",
    "fitnet4_bn_before": "replicate.nn.fitnet:FITNET4_BN_BEFORE",
    "fitnet4_bn_after": "replicate.nn.fitnet:FITNET4_BN_AFTER",
    "mnist_fitnet": "replicate.nn.fitnet:MNIST_FITNET",
}
RESIDUAL = ("fitresnet4",)  # models with residual branches, which fixup needs
BATCH_NORM = ("fitnet4_bn_before", "fitnet4_bn_after")  # models whose outputs depend on the whole batch
DATASETS = {
    "cifar10": "replicate.data.cifar:load",
    "cifar100": "replicate.data.cifar:load",
    "mnist": "replicate.data.mnist:load",
    "synthetic": "replicate.data.synthetic:load",
    "folder:NAME": "replicate.data.folder:load",
}
# Shapes of images: channels, height, width
CIFAR_SHAPE, MNIST_SHAPE = (3, 32, 32), (1, 28, 28)
# Models that take other images than CIFAR's, and data sets that have others; a folder's are known once they are read.
SHAPES = {"mnist_fitnet": MNIST_SHAPE, "mnist": MNIST_SHAPE}
PREPROCESSINGS = {
    "gcn-mean-image": "replicate.data.preprocessing:gcn_mean_image",
    "gcn": "replicate.data.preprocessing:gcn",
    "none": "replicate.data.preprocessing:none",
    "zero-centre": "replicate.data.preprocessing:zero_centre",
    "mean-image": "replicate.data.preprocessing:mean_image",
    "channel-mean": "replicate.data.preprocessing:channel_mean",
    "channel-mean-std": "replicate.data.preprocessing:channel_mean_std",
    "pca-whitening": "replicate.data.preprocessing:pca_whitening",
    "zca-whitening": "replicate.data.preprocessing:zca_whitening",
}


def modules() -> list[str]:
    """List the modules of all named objects."""
    named = (INITS, ACTIVATIONS, MODELS, DATASETS, PREPROCESSINGS)
    return sorted({path.partition(":")[0] for registry in named for path in registry.values()})


def resolve(path: str) -> Any:
    """Import the object that `module:name` names."""
    return pkgutil.resolve_name(path)

"""Small networks of other packages, with random weights, on which compare_lsuv.py compares the two implementations."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from compare_lsuv_cases import Case, Graph
from torch import Tensor, nn

IMAGES = (8, 3, 64, 64)
TIMM = """resnet18 resnet26t resnext26ts seresnet18 skresnet18 gcresnet33ts efficientnet_lite0 tf_efficientnet_cc_b0_4e
mobilenetv3_small_050 mobilenetv4_conv_small_035 mnasnet_small ghostnet_050 mixnet_s lcnet_035 regnetx_002 regnety_002
repvgg_a0 dla46_c ese_vovnet19b_dw cs3darknet_s hgnetv2_b0 convnext_atto convnextv2_atto poolformer_s12
edgenext_xx_small mobilevit_xxs fastvit_t8 pvt_v2_b0 nf_resnet26 nf_regnet_b0 eca_nfnet_l0 resnetv2_50x1_bit"""
# These take the size of the images.
TIMM_SIZED = """vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 xcit_nano_12_p16_224 convit_tiny
coatnet_nano_rw_224 mixer_s32_224 gmlp_ti16_224 resmlp_12_224"""
TORCHVISION = "shufflenet_v2_x0_5 mobilenet_v2 mnasnet0_5 regnet_y_400mf"
PYG = {
    "GCNConv": {},
    "SAGEConv": {},
    "GraphConv": {},
    "GATConv": {"heads": 4, "concat": False},
    "GATv2Conv": {"heads": 4, "concat": False},
    "TransformerConv": {"heads": 4, "concat": False},
    "TAGConv": {},
    "ChebConv": {"K": 3},
    "ARMAConv": {},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TEXT = {"vocab_size": 50, "max_position_embeddings": 64, **SIZES, **TOKENS}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 16}
SHORT = {"vocab_size": 50, **TOKENS}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "BertModel": TEXT,
    "RobertaModel": TEXT,
    "AlbertModel": {**TEXT, "embedding_size": 32},
    "DistilBertModel": {"vocab_size": 50, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
    "GPT2Model": {**SHORT, "n_embd": 64, "n_layer": 2, "n_head": 4},
    "GPTNeoXModel": TEXT,
    "BloomModel": {**SHORT, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "FalconModel": {**SHORT, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    "LlamaModel": GROUPED,
    "Gemma2Model": GROUPED,
    "Qwen3Model": GROUPED,
    "MixtralModel": {**GROUPED, "num_local_experts": 4},
    "MambaModel": {**SHORT, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "T5EncoderModel": {"vocab_size": 50, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
    "ViTModel": {**SIZES, "image_size": 64, "patch_size": 16},
    "Dinov2Model": {**SIZES, "image_size": 64, "patch_size": 16},
    "ConvNextModel": {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
}
BLOCKS = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
DIFFUSERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "UNet2DModel": (
        {
            **BLOCKS,
            "sample_size": 32,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        (4, 3, 32, 32),
    ),
    "AutoencoderKL": (
        {**BLOCKS, "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2},
        (4, 3, 32, 32),
    ),
    "AutoencoderTiny": ({}, (4, 3, 32, 32)),
    "DiTTransformer2DModel": (
        {
            "num_attention_heads": 4,
            "attention_head_dim": 16,
            "in_channels": 4,
            "num_layers": 2,
            "sample_size": 16,
            "norm_num_groups": 8,
        },
        (4, 4, 16, 16),
    ),
}


def _timm(name: str, **options: Any) -> nn.Module:
    return importlib.import_module("timm").create_model(name, **options)


def _transformer(name: str, options: dict[str, Any]) -> nn.Module:
    cls = getattr(importlib.import_module("transformers"), name)
    return cls(cls.config_class(**options))


def _diffuser(name: str, options: dict[str, Any], batch: int) -> nn.Module:
    model = getattr(importlib.import_module("diffusers"), name)(**options)
    steps = torch.arange(batch)

    def run(m: Graph, x: Tensor) -> Tensor:
        if name == "DiTTransformer2DModel":
            return m.model(x, timestep=steps, class_labels=steps).sample
        return (m.model(x, steps) if name == "UNet2DModel" else m.model(x)).sample

    return Graph(run, model=model)


def _graph(name: str, options: dict[str, Any]) -> nn.Module:
    conv = getattr(importlib.import_module("torch_geometric.nn"), name)
    edges = torch.randint(64, (2, 256))
    layers = {"first": conv(16, 32, **options), "second": conv(32, 32, **options), "head": nn.Linear(32, 5)}
    return Graph(lambda m, x: m.head(m.second(m.first(x, edges).relu(), edges).relu()), **layers)


def _torchvision(name: str) -> nn.Module:
    return getattr(importlib.import_module("torchvision.models"), name)()


def _cases() -> dict[str, Case]:
    def case(make: Callable[..., nn.Module], *args: Any, shape: tuple[int, ...] = IMAGES, **options: Any) -> Case:
        return Case(lambda: make(*args, **options), shape)

    cases = {f"torchvision {name}": case(_torchvision, name) for name in TORCHVISION.split()}
    cases |= {f"timm {name}": case(_timm, name) for name in TIMM.split()}
    cases |= {f"timm {name}": case(_timm, name, img_size=64) for name in TIMM_SIZED.split()}
    for name, options in TRANSFORMERS.items():
        make = case(_transformer, name, options)
        is_text = "vocab_size" in options
        cases[f"transformers {name}"] = Case(make.make, (8, 16), torch.int64) if is_text else make
    for name, (options, shape) in DIFFUSERS.items():
        cases[f"diffusers {name}"] = case(_diffuser, name, options, shape[0], shape=shape)
    for name, options in PYG.items():
        cases[f"torch_geometric {name}"] = case(_graph, name, options, shape=(64, 16))
    return cases


MODELS = _cases()

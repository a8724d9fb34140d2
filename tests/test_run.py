"""Run: validation, and the ids that name finished results."""

import pickle
from dataclasses import asdict, replace
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass

from replicate import run as module
from replicate.errors import UsageError
from replicate.run import LATER, STRICT, Run, check_settings

TABLE3 = Run("lsuv", "maxout", 0, input_scale=1.0)  # of schema 1, which had no scale of the input
FIELDS = TypeAdapter(Run).json_schema()["properties"]
# The smallest and the largest value of every number of a Run
RANGES = {
    name: (number["minimum"], number["maximum"])
    for name, field in FIELDS.items()
    for number in field.get("anyOf", [field])[:1]
    if "minimum" in number
}


SHORT, FLOAT32 = {"width": 0.25, "iterations": 3000, "milestones": [1333]}, {"precision": "32-true"}
RUN_IDS = [
    # Finished results are found by these names: a change here orphans them all.
    ({}, "lsuv-maxout-s0-3e3c9e12"),
    ({"init": "xavier", "activation": "tanh", "seed": 4} | SHORT, "xavier-tanh-s4-2c741748"),
    ({"clip_norm": 50}, "lsuv-maxout-s0-eff4ac24"),
    ({"init": "orthonormal", "activation": "vlrelu", "seed": 2**31 - 1}, "orthonormal-vlrelu-s2147483647-013ee72e"),
    ({"init": "orthonormal_msra", "activation": "sigmoid"} | FLOAT32, "orthonormal_msra-sigmoid-s0-839e9923"),
    ({"dataset": "folder:cifar10-jpeg", "width": 0.25}, "lsuv-maxout-s0-ad5ec187"),
    ({"lr": 1e-12, "lr_factor": 1e-6, "weight_decay": 0.0, "momentum": 0.0}, "lsuv-maxout-s0-46b3c794"),
    ({"mirror": False, "lsuv_dropout": False, "pad": 0, "dropout": 0.0}, "lsuv-maxout-s0-ef4507ac"),
    ({"input_scale": 1, "seed": 0}, "lsuv-maxout-s0-3e3c9e12"),
    ({"input_scale": 0.7}, "lsuv-maxout-s0-6fb68a2f"),
    ({"dataset": "synthetic", "lsuv_tol": 0.1, "lsuv_max_iter": 1, "lsuv_batch_size": 2}, "lsuv-maxout-s0-91c465e7"),
]


@pytest.mark.parametrize(("settings", "run_id"), RUN_IDS)
def test_run_ids_never_change(settings: dict[str, object], run_id: str) -> None:
    assert replace(TABLE3, **settings).run_id == run_id


def test_a_field_that_came_later_counts_only_off_its_introduction_value(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, slots=True, config=STRICT)
    class Later(Run):
        depth: Annotated[float, Field(ge=0)] = 0.5  # a default that has changed since

    monkeypatch.setattr(module, "LATER", {**LATER, "depth": 1.0})
    assert Later("lsuv", "maxout", input_scale=1.0, depth=1.0).run_id == TABLE3.run_id
    assert Later("lsuv", "maxout", input_scale=1.0).run_id != TABLE3.run_id
    assert LATER.keys() <= FIELDS.keys()


def test_values_as_yaml_reads_them_give_the_same_run() -> None:
    # YAML reads 1 as an integer, 9e4 as a float, and a list where the type is a tuple.
    settings = {"weight_decay": 5e-4, "width": 1, "iterations": 9e4, "milestones": [40000, 60000.0, 80000]}
    read = Run("lsuv", "maxout", input_scale=1, **settings)
    assert read == TABLE3
    assert read.run_id == TABLE3.run_id
    assert isinstance(read.width, float)
    assert isinstance(read.iterations, int)
    assert pickle.loads(pickle.dumps(read)) == TABLE3


@given(st.sampled_from(sorted(RANGES)), st.data())
def test_every_setting_counts(name: str, data: st.DataObject) -> None:
    low, high = RANGES[name]
    base = replace(TABLE3, optimizer="adam") if name == "square_decay" else TABLE3
    kind = float if name in ("clip_norm", "square_decay") else type(getattr(TABLE3, name))
    value = data.draw(st.integers(int(low) + 1, int(high)) if kind is int else st.floats(low, high))
    changed = replace(base, **{name: value, **({"milestones": []} if name == "iterations" else {})})
    same = getattr(changed, name) == getattr(base, name) and changed.milestones == TABLE3.milestones
    assert (changed.run_id == base.run_id) == same
    assert Run(**asdict(changed)) == changed


WRONG = [
    ({"init": "lsvu"}, r"unknown init 'lsvu' \(did you mean 'lsuv'\?\); choose from: lsuv, orthonormal, "),
    ({"dataset": "imagenet"}, "unknown dataset 'imagenet'; choose from: cifar10, cifar100, mnist, synthetic, folder"),
    ({"dataset": "folder:../secret"}, "unknown dataset"),
    ({"dataset": f"folder:{'a' * 256}"}, "unknown dataset"),
    ({"lr": -0.1}, r"lr = -0.1 is out of range; give at least 1e-12"),
    ({"width": 1e9}, "width = 1000000000.0 is out of range; give at most 64"),
    ({"width": float("inf")}, "width must be a finite number, not inf"),
    ({"seed": True}, "seed must be a whole number, not True"),
    ({"seed": "0"}, "seed must be a whole number, not '0'"),
    ({"mirror": 1}, "mirror must be true or false, not 1"),
    ({"clip_norm": 0}, "clip_norm = 0 is out of range"),
    ({"plugin": "3f9a"}, "unknown digest of a plugin '3f9a'; choose from: sha256: and 16 digits 0-9a-f"),
    ({"milestones": 40000}, "milestones must be a list, not 40000"),
    ({"milestones": [*range(1, 102)]}, "milestones has too many values; give at most 100"),
    ({"depth": 5}, "unknown key in a run 'depth'.* choose from: init, activation, "),
]
TOGETHER = [  # each value is right, but not with the others
    ({"optimizer": "rmsprop"}, "momentum = 0.9, but rmsprop has none, as in Caffe; give momentum = 0"),
    ({"optimizer": "nesterov", "momentum": 0}, "momentum = 0, but nesterov needs one; give more, or optimizer = sgd"),
    ({"square_decay": 0.9}, "square_decay is for rmsprop and adam, and the optimizer is sgd"),
    ({"optimizer": "adamw"}, r"unknown optimizer 'adamw' \(did you mean 'adam'\?\)"),
    ({"dataset": "mnist"}, "mnist have 1×28×28 values, and model fitnet4 takes 3×32×32; .* choose model from: mnist"),
    ({"model": "mnist_fitnet"}, "cifar10 have 3×32×32 values, and model mnist_fitnet takes 1×28×28; for .*: fitnet4, "),
    (
        {"dataset": "mnist", "model": "mnist_fitnet", "lsuv_data": "synthetic"},
        "lsuv_data = synthetic has other images than mnist; choose training or noise",
    ),
    ({"init": "fixup"}, "init = fixup needs residual branches; give model = fitresnet4"),
    ({"milestones": [60000, 40000]}, r"milestones = \[60000, 40000\] must increase"),
    ({"milestones": [40000, 90000]}, r"milestones = \[40000, 90000\] must lie between 1 and iterations - 1 = 89999"),
]


@pytest.mark.parametrize(("change", "message"), WRONG + TOGETHER)
def test_a_wrong_value_is_named_with_the_choices(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Run(**{"init": "lsuv", "activation": "relu", **change})


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_some_settings_are_checked_like_those_of_a_run(change: dict[str, object], message: str) -> None:
    assert check_settings({"width": 1, "milestones": [1, 2]}) == {"width": 1.0, "milestones": (1, 2)}
    with pytest.raises(UsageError, match=message):
        check_settings(change)

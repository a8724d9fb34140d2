"""Run: coercion, validation, and the ids that name finished results."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import UsageError
from replicate.run import RANGES, Run, checked

TABLE3 = Run("lsuv", "maxout", 0)


def test_run_ids_never_change() -> None:
    # Finished results are found by these names: a change here orphans them all.
    assert TABLE3.run_id == "lsuv-maxout-s0-3e3c9e12"
    assert Run("xavier", "tanh", 4, width=0.25, iterations=3000, milestones=[1333]).run_id == "xavier-tanh-s4-2c741748"
    assert replace(TABLE3, clip_norm=50).run_id == "lsuv-maxout-s0-eff4ac24"


def test_run_id_is_the_hash_that_the_contract_names() -> None:
    fields = {
        **{"init": "lsuv", "activation": "maxout", "seed": 0, "model": "fitnet4", "width": 1.0, "dataset": "cifar10"},
        **{"preprocessing": "gcn-mean-image", "pad": 8, "mirror": True, "dropout": 0.2, "batch_size": 128},
        **{"iterations": 90000, "milestones": [40000, 60000, 80000], "lr": 0.01, "lr_factor": 0.1, "momentum": 0.9},
        **{"weight_decay": 0.0005, "clip_norm": None, "precision": "bf16-mixed", "lsuv_tol": 0.02},
        **{"lsuv_max_iter": 20, "lsuv_batch_size": 128, "lsuv_dropout": True},
    }
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"))
    assert TABLE3.run_id == f"lsuv-maxout-s0-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def test_values_as_yaml_reads_them_give_the_same_run() -> None:
    # YAML reads 5e-4 as a string, 1 as an integer, 9e4 as a string and a list where the type is a tuple.
    read = Run(
        "lsuv", "maxout", "0", weight_decay="5e-4", width=1, iterations="9e4", milestones=[40000, 60000.0, 80000]
    )
    assert read == TABLE3
    assert read.run_id == TABLE3.run_id
    assert isinstance(read.width, float)
    assert isinstance(read.iterations, int)


@given(st.sampled_from(sorted(RANGES)), st.data())
def test_every_setting_counts(name: str, data: st.DataObject) -> None:
    low, high = RANGES[name]
    kind = float if name == "clip_norm" else type(getattr(TABLE3, name))
    numbers = st.integers(int(low) + 1, int(high)) if kind is int else st.floats(low, high)
    value = data.draw(numbers)
    changed = replace(TABLE3, **{name: value, **({"milestones": []} if name == "iterations" else {})})
    same = getattr(changed, name) == getattr(TABLE3, name) and changed.milestones == TABLE3.milestones
    assert (changed.run_id == TABLE3.run_id) == same
    assert Run(**asdict(changed)) == changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"init": "lsvu"}, r"unknown init 'lsvu' \(did you mean 'lsuv'\?\); choose from: lsuv, orthonormal, "),
        ({"activation": "swish"}, "unknown activation 'swish'; choose from: maxout, relu, vlrelu, tanh, sigmoid"),
        ({"dataset": "imagenet"}, "unknown dataset 'imagenet'; choose from: cifar10, synthetic, folder:NAME"),
        ({"dataset": "folder:../secret"}, "unknown dataset"),
        ({"dataset": "folder:"}, "unknown dataset"),
        ({"model": "resnet"}, "unknown model 'resnet'; choose from: fitnet4"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"lr": -0.1}, r"lr = -0.1 is out of range; give a value from 1e-12 to 1000"),
        ({"lr": "nan"}, "lr must be a number, not 'nan'"),
        ({"width": 1e9}, "width = 1000000000.0 is out of range"),
        ({"batch_size": 0}, "batch_size = 0 is out of range"),
        ({"seed": -1}, "seed = -1 is out of range"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"seed": True}, "seed must be a whole number, not True"),
        ({"iterations": "many"}, "iterations must be a whole number, not 'many'"),
        ({"mirror": 1}, "mirror must be true or false, not 1"),
        ({"init": None}, "init must be a name, not None"),
        ({"clip_norm": 0}, "clip_norm = 0.0 is out of range"),
        ({"milestones": 40000}, "milestones must be a list of whole numbers, not 40000"),
        ({"milestones": [60000, 40000]}, r"milestones = \[60000, 40000\] must increase"),
        (
            {"milestones": [40000, 90000]},
            r"milestones = \[40000, 90000\] must lie between 1 and iterations - 1 = 89999",
        ),
        ({"lsuv_tol": 0}, "lsuv_tol = 0.0 is out of range"),
    ],
)
def test_a_wrong_value_is_named_with_the_choices(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Run(**{"init": "lsuv", "activation": "relu", **change})


def test_values_from_files_become_those_of_runs() -> None:
    assert checked("width", "0.25") == 0.25
    assert checked("init", "lsuv") == "lsuv"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("init", "lsvu", "unknown init 'lsvu' .did you mean 'lsuv'"),
        ("activaton", "relu", "unknown field of a run 'activaton'"),
        ("width", "wide", "width must be a number"),
    ],
)
def test_wrong_values_name_the_culprit(field: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(field, value)

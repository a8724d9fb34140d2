"""`--set` and `--only` words."""

import pytest

from replicate.errors import UsageError
from replicate.settings import assignments


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("iterations=100", 100),
        ("lr=5e-4", 5e-4),
        ("seed=0,1,2", [0, 1, 2]),
        ("init=lsuv,xavier", ["lsuv", "xavier"]),
        ("milestones=[40,60]", [40, 60]),
        ("milestones=[[40],[60]]", [[40], [60]]),
        ("milestones=[]", []),
        ("clip_norm=null", None),
        ("mirror=false", False),
        ("dataset=folder:cifar10-jpeg", "folder:cifar10-jpeg"),
        ("lr=", None),
    ],
)
def test_values_are_read_as_yaml(word: str, value: object) -> None:
    assert list(assignments("--set", [word]).values()) == [value]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["iterations"], "--set takes key=value words such as iterations=100, not 'iterations'"),
        (["experiments/table3.yaml"], "--set takes key=value words"),
        (["iteratons=1"], r"unknown key in --set 'iteratons' \(did you mean 'iterations'\?\)"),
        (["seed=0", "seed=1"], "--set gives seed twice; for several values write seed=a,b"),
        (["milestones=[1"], "cannot read the value"),
    ],
)
def test_what_cannot_be_read_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assignments("--set", words)

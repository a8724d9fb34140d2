"""YAML from elsewhere."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.errors import UsageError
from replicate.yamlfile import MAX_VALUES, assignments, parse

SMOKE = (Path(__file__).parents[1] / "experiments" / "smoke.yaml").read_text()


def test_plain_data_is_read_with_its_aliases() -> None:
    assert parse("base: &base {lr: 1, seed: [0, 1]}\nruns: [*base, {<<: *base, lr: 2}]") == {
        "base": {"lr": 1, "seed": [0, 1]},
        "runs": [{"lr": 1, "seed": [0, 1]}, {"lr": 2, "seed": [0, 1]}],
    }
    assert parse("") is None


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]  # 9**30 values
    with pytest.raises(yaml.YAMLError, match="expands to more than 100,000 values"):
        parse("\n".join(lines))
    fits = ["x"] * (MAX_VALUES // 2 - 2)
    assert len(parse(f"[&a [{', '.join(fits)}], *a]")) == 2
    with pytest.raises(yaml.YAMLError, match="an alias contains itself"):
        parse("a: &a [1, *a]")


OBJECT = "!!python/object/apply:os.system [echo]"


@pytest.mark.parametrize("text", [OBJECT, "[" * 50_000, "!!int x", "2001-99-99", "{[1]: 2}", f"a: {'9' * 5000}"])
def test_whatever_is_wrong_it_is_an_error_of_yaml(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse(text)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_changed_anywhere_it_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(SMOKE)))
    middle = data.draw(st.text(alphabet="[]{}&*!:-,#|>?%@\"' \n\tab01", max_size=12))
    with contextlib.suppress(yaml.YAMLError):
        parse(SMOKE[:start] + middle + SMOKE[start + data.draw(st.integers(0, 20)) :])


def test_values_of_assignments_are_read_as_yaml() -> None:
    words = ["lr=5e-4", "clip_norm=null", "seed=0,1,2", "init=lsuv,xavier", "milestones=[[40],[60]]"]
    read = {"lr": 5e-4, "clip_norm": None, "seed": [0, 1, 2], "init": ["lsuv", "xavier"], "milestones": [[40], [60]]}
    assert assignments("--set", [*words, "dataset=folder:a-b"]) == read | {"dataset": "folder:a-b"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["iterations"], "--set takes key=value words such as iterations=100, not 'iterations'"),
        (["iteratons=1"], r"unknown key in --set 'iteratons' \(did you mean 'iterations'\?\)"),
        (["seed=0", "seed=1"], "--set gives seed twice; for several values write seed=a,b"),
        (["milestones=[1"], "cannot read the value"),
    ],
)
def test_assignments_that_cannot_be_read_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assignments("--set", words)

"""YAML from elsewhere."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.yamlfile import MOST_VALUES, parse

SMOKE = (Path(__file__).parents[1] / "experiments" / "smoke.yaml").read_text()


def test_plain_data_is_read_with_its_aliases() -> None:
    assert parse("base: &base {lr: 1, seed: [0, 1]}\nruns: [*base, {<<: *base, lr: 2}]") == {
        "base": {"lr": 1, "seed": [0, 1]},
        "runs": [{"lr": 1, "seed": [0, 1]}, {"lr": 2, "seed": [0, 1]}],
    }
    assert parse("") is None


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "!!python/name:os.system",
        "a: !!python/object/new:subprocess.Popen [[echo]]",
    ],
)
def test_no_object_is_made(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        parse(text)


def test_a_bomb_of_aliases_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]  # 9**30 values
    with pytest.raises(yaml.YAMLError, match="unfolds to more than 100,000 values"):
        parse("\n".join(lines))
    fits = ["x"] * (MOST_VALUES // 2 - 2)
    assert len(parse(f"[&a [{', '.join(fits)}], *a]")) == 2


def test_an_alias_of_itself_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="an alias stands for itself"):
        parse("a: &a [1, *a]")


@pytest.mark.parametrize(
    "text", ["[" * 50_000, "!!int x", "!!bool maybe", "2001-99-99", "{[1]: 2}", f"a: {'9' * 5000}"]
)
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

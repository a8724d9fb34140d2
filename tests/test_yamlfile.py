"""YAML from elsewhere."""

import contextlib
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate import yamlfile
from replicate.errors import UsageError
from replicate.yamlfile import MAX_VALUES, assignment, assignments, parse

SMOKE = (Path(__file__).parents[1] / "experiments" / "smoke.yaml").read_text()


def test_plain_data_is_read_with_its_aliases() -> None:
    assert parse("base: &base {lr: 1, seed: [0, 1]}\nruns: [*base, {<<: *base, lr: 2}]") == {
        "base": {"lr": 1, "seed": [0, 1]},
        "runs": [{"lr": 1, "seed": [0, 1]}, {"lr": 2, "seed": [0, 1]}],
    }
    assert parse("") is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("010", 10), ("08", 8), ("0o17", 15), ("0x1F", 31), ("-7", -7), ("+7", 7), ("0", 0), ("00", 0)),
        *(("5e-4", 5e-4), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0), ("-.inf", float("-inf"))),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None)),
        # text, which a field of another type refuses
        *((text, text) for text in ("1:30", "1_000", "0b11", "yes", "no", "On", "off", "y", "2001-01-01", "1e", "0o8")),
    ],
)
def test_numbers_and_words_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"a: {text}")["a"]
    assert (found, type(found)) == (value, type(value))
    assert parse(text) == value


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


@pytest.mark.parametrize(
    "text", [OBJECT, "[" * 50_000, "!!int x", "!!timestamp 2001-99-99", "{[1]: 2}", f"a: {'9' * 5000}"]
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


def test_values_of_assignments_are_read_as_yaml() -> None:
    words = ["lr=5e-4", "clip_norm=null", "seed=0,1,2", "init=lsuv,xavier", "milestones=[[40],[60]]"]
    read = {"lr": 5e-4, "clip_norm": None, "seed": [0, 1, 2], "init": ["lsuv", "xavier"], "milestones": [[40], [60]]}
    assert assignments("--set", [*words, "dataset=folder:a-b"]) == read | {"dataset": "folder:a-b"}


def test_a_range_of_whole_numbers_is_a_list() -> None:
    words = ["seed=0-2,7,010,9-9", "pad=4", "dataset=folder:a-4", "lr=1-2", "milestones=300"]
    read = {"seed": [0, 1, 2, 7, 10, 9], "pad": 4, "dataset": "folder:a-4", "lr": "1-2", "milestones": 300}
    assert assignments("--set", words) == read
    for text in ("-1-3", "0-1-2", "0-4x", "1e3-2e3", "0-" + "9" * 30):  # no range; a run then refuses the text
        assert assignments("--set", [f"seed={text}"]) == {"seed": text}


def test_thousands_of_whole_numbers_are_not_read_as_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Mock(wraps=parse)
    monkeypatch.setattr(yamlfile, "parse", reader)
    assert assignments("--set", ["seed=" + ",".join(map(str, range(5000)))]) == {"seed": [*range(5000)]}
    assert reader.call_count == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["iterations"], "--set takes key=value words such as iterations=100, not 'iterations'"),
        (["iteratons=1"], r"unknown key in --set 'iteratons' \(did you mean 'iterations'\?\)"),
        (["seed=0", "seed=1"], "--set gives seed twice; for several values write seed=a,b"),
        (["milestones=[1"], "cannot read the value"),
        (["seed=4-0"], "--set seed=4-0: the range 4-0 is empty; give the smaller number first"),
        (["seed=0-999999999"], "the range 0-999999999 is too long; give at most 100,000 values"),
        (["seed=1-99999,1-2"], "the range 1-2 is too long"),
    ],
)
def test_assignments_that_cannot_be_read_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        assignments("--set", words)


@pytest.mark.parametrize(
    "value", [1, 1.0, 1e-5, True, None, "folder:a-b", "lsuv", (), (40, 60), [3, 4], [0.5, 1.0], []]
)
def test_an_assignment_is_read_back(value: object) -> None:
    field = "dataset" if isinstance(value, str) else "milestones"
    (found,) = assignments("--set", [assignment(field, value)]).values()
    assert found == (list(value) if isinstance(value, tuple) else value)


def test_a_list_of_texts_is_written_as_people_write_it() -> None:
    assert assignment("init", ["lsuv", "msra"]) == "init=lsuv,msra"
    assert assignments("--only", ["init=lsuv,msra"]) == {"init": ["lsuv", "msra"]}

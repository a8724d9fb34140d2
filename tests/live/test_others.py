from pathlib import Path

import pytest
from workers import ended, put

from replicate.live.others import other_records
from replicate.run import Run
from replicate.store.run_folder import RunFolder
from replicate.yamlfile import assignments

ASKED = (Run("lsuv", "relu"), Run("msra", "tanh"))


def fill(out: Path, *runs: Run) -> None:
    for run in runs:
        put(ended(run), RunFolder.of(out, run).path)


def test_records_are_grouped_by_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    seeds = [Run("lsuv", "relu", seed=seed) for seed in (3, 4)]
    smaller = [Run(init, "relu", input_scale=1.0, milestones=(40,), iterations=60) for init in ("lsuv", "msra")]
    far = Run("xavier", "relu", seed=7, width=0.5, pad=4, mirror=False)
    fill(tmp_path, *ASKED, *seeds, *smaller, smaller[0], far, Run("lsuv", "tanh"))
    texts = list(map(str, other_records(tmp_path, ASKED)))
    assert sorted(texts[:2]) == [
        "2 records with input_scale=1.0 iterations=60 milestones=[40]",
        "2 records with seed=[3,4]",
    ]
    assert sorted(texts[2:]) == [
        "1 record of other combinations of these settings",
        "1 record that differs in init, seed, width, pad, mirror",
    ]


@pytest.mark.parametrize(
    "other", [{"clip_norm": 2.0}, {"milestones": ()}, {"mirror": False}, {"dataset": "folder:a"}, {"lr": 1e-5}]
)
def test_the_words_give_the_settings_back(tmp_path: Path, other: dict[str, object]) -> None:
    fill(tmp_path, Run("lsuv", "relu", **other))
    (group,) = other_records(tmp_path, ASKED)
    ((name, value),) = assignments("--set", group.words).items()
    assert (name, value) == next(
        iter({key: list(v) if isinstance(v, tuple) else v for key, v in other.items()}.items())
    )


def test_that_a_run_has_no_plugin_is_no_setting_to_give(tmp_path: Path) -> None:
    digests = [f"sha256:{digit * 16}" for digit in "ab"]
    asked = [Run("own", "relu", plugin=digests[0])]
    fill(tmp_path, Run("lsuv", "relu"), Run("own", "relu", plugin=digests[1]))
    words = [word for group in other_records(tmp_path, asked) for word in group.words]
    assert sorted(words) == ["init=lsuv", f"plugin={digests[1]}"]


def test_many_seeds_are_a_range_in_the_order_of_numbers(tmp_path: Path) -> None:
    fill(tmp_path, *(Run("lsuv", "relu", seed=seed) for seed in range(8, 12)))
    assert list(map(str, other_records(tmp_path, ASKED))) == ["4 records with seed=8-11"]
    fill(tmp_path, *(Run("lsuv", "relu", clip_norm=norm, lr=0.5) for norm in (None, 2.0, 1.0)))
    assert "lr=0.5" in str(other_records(tmp_path, ASKED)[1])


def test_an_empty_or_unreadable_folder_has_none(tmp_path: Path) -> None:
    assert other_records(tmp_path / "gone", ASKED) == []
    fill(tmp_path, Run("lsuv", "relu", seed=1))
    next(tmp_path.glob("runs/*/result.json")).write_text("{")
    assert other_records(tmp_path, ASKED) == []


def test_of_several_plugins_one_is_named(tmp_path: Path) -> None:
    fill(tmp_path, *(Run("mine", "relu", plugin=f"sha256:{digit * 16}") for digit in "12"))
    (found,) = other_records(tmp_path, ASKED)
    assert f"plugin=sha256:{'1' * 16}" in found.words
    assert "sha256:2" not in str(found)

"""The command: all checks on the synthetic images, and a folder whose test images are training images."""

import shutil
from pathlib import Path

import pytest
from made_images import image_folder

from replicate.checks import check as module
from replicate.checks.common import Finding
from replicate.cli import main
from replicate.run import Run
from replicate.training.module import DivergedError

SMOKE = str(Path(__file__).parents[2] / "experiments" / "smoke.yaml")
SMALL = ["--set", "width=0.0625", "--only", "init=xavier", "activation=maxout,relu"]


def test_all_checks_pass_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check", SMOKE, *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["copies in synthetic", "loss before training", "gradients", "images by heart", "shuffled labels"]
    assert [line.partition(": ")[0] for line in lines if line.startswith("ok ")] == [f"ok     {name}" for name in names]
    assert lines[-1] == "no check failed"
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_fails_is_named_and_the_others_are_made(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    root = image_folder(tmp_path / "pets", train=6, test=2)
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")

    def diverge(*_: object) -> Finding:
        raise DivergedError("the training loss is not finite after 0 iterations")

    for name in ("check_losses", "check_gradients", "learn_by_heart", "learn_shuffled_labels"):
        monkeypatch.setattr(module, name, diverge)
    assert main(["check", SMOKE, "--set", "dataset=folder:pets", "--data-dir", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "failed copies in folder:pets: 6 of 6 test images are training images too, such as test "
    )
    assert lines[1] == "failed loss before training: the training loss is not finite after 0 iterations"
    assert lines[-1] == "5 checks failed"


def test_validation_images_are_compared_with_the_rest(tmp_path: Path) -> None:
    runs = [Run("lsuv", "relu", dataset="synthetic", validation=number) for number in (20, 20, 30)]
    found = [finding for _, finding in zip(range(2), module.findings(runs, tmp_path, lambda text: None), strict=False)]
    names = [f"copies in synthetic with {number} validation images" for number in (20, 30)]
    assert [name for name, _ in found] == names
    assert all(
        finding.text.startswith(f"0 of {n} test images") for (_, finding), n in zip(found, (20, 30), strict=True)
    )


def test_missing_data_and_images_that_the_model_does_not_take_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    command = ["check", SMOKE, "--data-dir", str(tmp_path), "--set", "dataset=folder:pets"]
    assert main(command) == 2
    assert "no data set 'pets'" in capsys.readouterr().err
    image_folder(tmp_path / "pets", train=2, test=2)
    assert main([*command, "model=mnist_fitnet"]) == 2
    assert "and model mnist_fitnet takes 1×28×28" in capsys.readouterr().err

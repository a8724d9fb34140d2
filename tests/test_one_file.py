"""experiments/one_file.py trains the same nets as the package, in every cell of the paper's table."""

import contextlib
import hashlib
import math
import pickle
import re
import sys
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import one_file
import pytest
import torch
from torch import Tensor, nn
from torchvision.datasets import CIFAR10
from training.fitting import DEVICES, KeptLosses, fit

from replicate.data import synthetic
from replicate.data.dataset import Dataset
from replicate.experiment import Experiment
from replicate.nn.activations import Maxout
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_
from replicate.training.module import Classifier, DivergedError, Eager

ROOT = Path(__file__).parents[1]
CELLS = [(run.init, run.activation) for run in Experiment.load(ROOT / "experiments/table3.yaml").runs({"seed": 0})]
BATCH = 4


class Trained(NamedTuple):
    """A training: the parameters before and after it, the losses up to one that is not finite, the accuracy in %."""

    initial: list[Tensor]
    final: list[Tensor]
    losses: list[float]
    accuracy: float


def shapes(train: int) -> Dataset:
    """Some images to train on, and 20 to test."""
    images, labels = synthetic.shapes(train + 20)
    return Dataset(
        "shapes", "", tuple(synthetic.SHAPES), images[:train], labels[:train], images[train:], labels[train:]
    )


def pixels(dataset: Dataset) -> tuple[Tensor, Tensor]:
    return torch.tensor(dataset.train_images), torch.tensor(dataset.test_images)


def parameters(net: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def train_by_package(run: Run, dataset: Dataset, dtype: torch.dtype, device: str = "cpu") -> Trained:
    data = build_data(run, dataset, device)
    data.train_images, data.test_images = data.train_images.to(dtype), data.test_images.to(dtype)
    net = build_net(run, 10, device).to(dtype)
    init_net_(net, run, data)
    initial, accuracy = parameters(net), math.nan
    model = Classifier(net, run, steps=KeptLosses(Eager()))
    with contextlib.suppress(DivergedError):
        fit(model, data)
        accuracy = 100 * (model.predictions()[0] == torch.tensor(dataset.test_labels)).double().mean().item()
    return Trained(initial, parameters(net), list(takewhile(math.isfinite, model.steps.losses)), accuracy)


def train_by_file(run: Run, dataset: Dataset) -> Trained:
    """Train on the CPU in float64."""
    images, test_images = (images.double() for images in one_file.preprocess(*pixels(dataset)))
    labels, test_labels = torch.tensor(dataset.train_labels), torch.tensor(dataset.test_labels)
    lsuv_batches, batches = (
        one_file.endless_batches(images, labels, one_file.stream(run.seed, name), BATCH) for name in ("lsuv", "batches")
    )
    net = one_file.fitnet4(run.activation, run.width).double().to(memory_format=torch.channels_last)
    one_file.initialise_(net, run.init, run.activation, run.seed, lsuv_batches)
    initial = parameters(net)
    losses = map(float, one_file.train(net, batches, run.iterations))
    finite = list(takewhile(math.isfinite, losses))
    accuracy = one_file.accuracy(net, test_images, test_labels) if len(finite) == run.iterations else math.nan
    return Trained(initial, parameters(net), finite, accuracy)


@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")  # in such small batches variances scatter
@pytest.mark.parametrize(("init", "activation"), CELLS)
def test_the_trainings_agree(init: str, activation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 50 images and batches of 4: passes end within a batch. Dropout is on: both draw the same masks.
    small = {"width": 1 / 16, "iterations": 27, "milestones": [12, 18, 24], "precision": "32-true"}
    # Few tries keep LSUV quick; the script, below, has the limits of the package.
    monkeypatch.setattr(one_file, "lsuv_", partial(one_file.lsuv_, max_tries=2))
    run = Run(init, activation, seed=1, batch_size=BATCH, lsuv_batch_size=BATCH, lsuv_max_iter=2, **small)
    theirs, ours = train_by_package(run, shapes(50), torch.float64), train_by_file(run, shapes(50))
    assert len(ours.losses) == len(theirs.losses)
    # On this machine all bits agree but maxout's, whose gradients have another layout in memory.
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-12)
    assert ours.accuracy == pytest.approx(theirs.accuracy, nan_ok=True)
    torch.testing.assert_close(ours.initial, theirs.initial, rtol=0, atol=1e-12)
    if (init, activation) == ("msra", "maxout"):
        assert 1 < len(theirs.losses) < run.iterations  # it diverges
    else:
        torch.testing.assert_close(ours.final, theirs.final, rtol=0, atol=1e-12)
        assert max(map(torch.dist, ours.initial, ours.final)) > 1e-3  # so that there is something to agree on


def test_the_images_agree() -> None:
    dataset, run = shapes(1_200), Run("lsuv", "relu", seed=2)
    data = build_data(run, dataset, "cpu")
    images, test_images = one_file.preprocess(*pixels(dataset))
    torch.testing.assert_close(test_images, data.test_images, rtol=0, atol=1e-6)
    ours = one_file.endless_batches(images, torch.tensor(dataset.train_labels), one_file.stream(2, "batches"))
    for (x, labels), (y, their_labels) in islice(zip(ours, data.batches, strict=False), 11):  # into the second pass
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)
        assert torch.equal(labels, their_labels)


@pytest.mark.parametrize("pieces", [2, 5])
def test_maxout_agrees_on_equal_pieces_and_nan(pieces: int) -> None:
    # every combination of 0, 1 and NaN
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, math.nan])] * pieces)
    values, gradients = [], []
    for maxout in (one_file.Maxout(pieces), Maxout(pieces)):
        leaf = x.clone().requires_grad_()
        values.append(maxout(leaf))
        values[-1].sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)
    finite = x.isfinite().all(1)
    assert torch.equal(*(gradient[finite] for gradient in gradients))


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A small data set that tmp_path holds in the format of CIFAR-10. torchvision expects it, not the official one."""
    dataset = shapes(200)
    (tmp_path / CIFAR10.base_folder).mkdir()

    def write(name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (tmp_path / CIFAR10.base_folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    train = {"data": dataset.train_images.reshape(-1, 3072), "labels": dataset.train_labels.tolist()}
    test = {"data": dataset.test_images.reshape(-1, 3072), "labels": dataset.test_labels.tolist()}
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", train)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", test)])
    name, md5 = write("batches.meta", {"label_names": dataset.classes})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return dataset


@pytest.mark.filterwarnings("ignore::replicate.init.LSUVWarning")
def test_the_script_prints_the_loss_and_the_accuracy(
    cifar10: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # main changes it
    words = ["--width", "0.0625", "--iterations", "5", "--data-dir", str(tmp_path)]
    one_file.main(["--init", "msra", "--activation", "maxout", *words])
    assert capsys.readouterr().out.endswith("diverged: a loss is not finite\n")
    one_file.main(["--init", "lsuv", "--activation", "tanh", "--seed", "3", *words])
    loss, accuracy = re.fullmatch(
        r"iteration 5: training loss (\S+)\ntest accuracy: (\S+) %\n", capsys.readouterr().out
    ).groups()
    device, precision = DEVICES[-1], "bf16-mixed" if DEVICES[-1] == "cuda" else "32-true"
    run = Run("lsuv", "tanh", seed=3, width=1 / 16, iterations=5, milestones=[2, 3, 4], precision=precision)
    theirs = train_by_package(run, cifar10, torch.float32, device)
    assert float(loss) == pytest.approx(fmean(theirs.losses), abs=0.05 if device == "cuda" else 6e-4)
    assert float(accuracy) == pytest.approx(theirs.accuracy, abs=10 if device == "cuda" else 0)


@pytest.mark.parametrize("words", [["--init", "lsvu"], ["--iterations", "0"], ["--width", "0"]])
def test_wrong_usage_ends_with_one_sentence(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        one_file.main(words)
    assert raised.value.code == 2
    assert words[0] in capsys.readouterr().err.splitlines()[-1]


def test_it_is_one_short_file() -> None:
    text = (ROOT / "experiments" / "one_file.py").read_text()
    assert len(text.splitlines()) <= 250
    imported = set(re.findall(r"^ *(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported - sys.stdlib_module_names == {"torch", "torchvision"}

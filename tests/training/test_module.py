"""The LightningModule: its loss, its totals and its optimiser, against numbers by hand."""

import math
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from replicate.run import Run
from replicate.training.module import Classifier, DivergedError, wide

RUN = Run("lsuv", "relu", iterations=6, milestones=(2, 4))


def classifier(net: nn.Module | None = None) -> Classifier:
    return Classifier(net or nn.Linear(2, 2), RUN)


def test_loss_and_accuracy_by_hand() -> None:
    model = classifier(nn.Identity())
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    labels = torch.tensor([1, 0, 0])
    # softmax: 1/2, 3/4 and 1/4 for the label
    expected = -(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3
    assert model.step((logits, labels), "train").item() == pytest.approx(expected, rel=1e-6)
    model.step((logits[1:2], labels[1:2]), "train")
    loss, accuracy = model.take("train")
    assert loss == pytest.approx((3 * expected - math.log(3 / 4)) / 4, rel=1e-6)  # weighted by images
    assert accuracy == 50.0  # argmax of a tie is the first; right are the second image, twice
    model.validation_step((logits[:1], labels[:1]), 0)
    assert model.take("val") == (pytest.approx(math.log(2), rel=1e-6), 0.0)


def test_predictions_are_of_the_latest_evaluation() -> None:
    model = classifier(nn.Identity())
    first, second = torch.eye(3)[[0, 2]], torch.eye(3)[[1]]
    for _ in range(2):
        model.validation_step((first, torch.tensor([0, 0])), 0)
        model.validation_step((second, torch.tensor([0])), 1)
    assert model.predictions().tolist() == [0, 2, 1]
    model.validation_step((second, torch.tensor([0])), 0)
    assert model.predictions().tolist() == [1]


def test_totals_are_in_the_widest_type_that_a_device_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [wide(torch.device(name)) for name in ("cpu", "cuda", "mps")] == [
        torch.float64,
        torch.float64,
        torch.float32,
    ]
    batch = torch.tensor([[0.0, 0.0]]), torch.tensor([0])
    model = classifier(nn.Identity())
    model.step(batch, "train")
    assert model.totals["train"].dtype == torch.float64
    monkeypatch.setattr("replicate.training.module.wide", lambda device: torch.float32)
    model.step(batch, "train")  # as one that goes on from another device's checkpoint
    assert model.totals["train"].dtype == torch.float32
    assert model.take("train") == (pytest.approx(math.log(2), rel=1e-6), 100.0)


def test_biases_have_no_weight_decay() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2))
    groups = classifier(net).configure_optimizers().param_groups
    decay = {parameter.shape: group["weight_decay"] for group in groups for parameter in group["params"]}
    assert decay == {(2, 1, 3, 3): 5e-4, (2, 2): 5e-4, (2,): 0.0}


def test_milestones_fall_on_the_exact_iteration() -> None:
    rates = [classifier().learning_rate(iteration) for iteration in range(6)]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001])  # divided by 10 at 2 and at 4


class Constant(nn.Module):
    """One weight, whose gradient is 1 whatever the input, through two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1), 2.0))
        self.seen: list[float] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(self.weight.item())
        return self.weight * x


class Linear(Classifier):
    """The loss is the sum of the logits, for updates that can be worked out by hand."""

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        return self(batch[0]).sum()


def fit(
    model: Classifier, batches: list[tuple[torch.Tensor, torch.Tensor]], chunks: list[int], precision: str = "32-true"
) -> None:
    """Train by a real Trainer, the batches cut into chunks of these lengths."""
    feed = iter(batches)
    loader = [[next(feed) for _ in range(length)] for length in chunks]
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(model, train_dataloaders=_Loader(loader))


class _Loader:
    def __init__(self, chunks: list[list[tuple[torch.Tensor, torch.Tensor]]]) -> None:
        self.chunks = chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self):
        return (iter(chunk) for chunk in self.chunks)


@pytest.mark.parametrize("chunks", [[6], [1] * 6, [4, 2], [3, 3]])
def test_updates_by_hand_whatever_the_chunks(chunks: list[int]) -> None:
    net = Constant()
    model = Linear(net, RUN)
    fit(model, [(torch.ones(1, 1), torch.zeros(1))] * 6, chunks)
    w, v, weights = 2.0, 0.0, []
    for rate in (0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001):
        weights.append(w)
        v = 0.9 * v + 1 + 5e-4 * w  # gradient 1, decay on the weight
        w -= rate * v
    assert model.iteration == 6
    assert net.seen == pytest.approx(weights, rel=1e-6)
    assert net.weight.item() == pytest.approx(w, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("chunks", [[6], [1] * 6, [4, 2]])
def test_a_loss_that_is_not_finite_ends_training_within_its_chunk(bad: float, chunks: list[int]) -> None:
    good, label = torch.ones(1, 1), torch.zeros(1)
    model = Linear(Constant(), RUN)
    with pytest.raises(DivergedError, match="not finite after 3 iterations") as caught:
        fit(model, [(good, label)] * 3 + [(good * bad, label)] + [(good, label)] * 2, chunks)
    assert model.iteration == caught.value.iteration == 3  # steps before the loss that is not finite


def test_each_iteration_of_a_bf16_chunk_sees_its_own_weights() -> None:
    # One autocast spans the chunk: with its cache on, all iterations would see the first one's bf16 weights.
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(2, (8,))) for _ in range(6)]
    ends = []
    for chunks in ([6], [1] * 6):
        torch.manual_seed(1)
        model = Classifier(nn.Linear(4, 2), replace(RUN, lr=0.5))
        fit(model, batches, chunks, precision="bf16-mixed")
        ends.append(model.net.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])

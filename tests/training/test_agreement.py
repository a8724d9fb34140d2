"""The fast path is the same training as a plain Lightning loop: in float64, with dropout, loss by loss."""

from itertools import islice

import pytest
import pytorch_lightning as pl
import torch
from bench.plain import PlainClassifier
from pytorch_lightning.callbacks import LambdaCallback
from torch import nn
from torch.utils.data import DataLoader
from training.fitting import DEVICES, KeptLosses, fit, seeded

from replicate.data.datamodule import DeviceData
from replicate.names import ACTIVATIONS, resolve
from replicate.nn.fitnet import FITNET4, build
from replicate.run import Run
from replicate.training.cuda_graph import CudaGraph
from replicate.training.module import Classifier, Eager, Steps

ITERATIONS = 20
# Milestones and chunks that do not divide each other; decay and rates so large that a slip shows at once.
PROTOCOL = {"lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4, "milestones": (5, 13), "lr_factor": 0.1}
RUN = Run("lsuv", "vlrelu", batch_size=16, iterations=ITERATIONS, pad=4, precision="32-true", **PROTOCOL)


def data(device: str = "cpu") -> DeviceData:
    images = torch.randn(60, 3, 32, 32, generator=seeded(1), dtype=torch.float64)
    labels = torch.randint(10, (60,), generator=seeded(2))
    made = DeviceData((images, labels), (images[:10], labels[:10]), RUN, seeded(3), device)
    made.chunk = 7
    return made


def net(activation: str, device: str = "cpu", dropout: float = 0.2) -> nn.Module:
    """A small FitNet-4; its dropout masks are always the same."""
    torch.manual_seed(7)
    made = build(FITNET4, resolve(ACTIVATIONS[activation]), width=0.125, dropout=dropout).double()
    generator = seeded(5)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, std=0.3, generator=generator)  # not zero, where decay would not show
        else:
            nn.init.orthogonal_(parameter, generator=generator)
    torch.manual_seed(7)
    return made.to(device)


def plain(activation: str, device: str) -> list[float]:
    """Train on the batches of the fast path, one at a time."""
    batches = list(islice(data(device).batches, ITERATIONS))
    losses: list[float] = []
    keep = LambdaCallback(on_train_batch_end=lambda trainer, model, outputs, *_: losses.append(outputs["loss"].item()))
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator=device, devices=1, max_epochs=1, callbacks=[keep], **quiet)
    loader = DataLoader(batches, batch_size=None, generator=seeded(8))  # it draws from its own generator
    trainer.fit(PlainClassifier(net(activation, device), RUN), loader)
    return losses


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("activation", "steps"), [("vlrelu", Eager), ("maxout", CudaGraph)])
def test_the_losses_of_all_iterations_agree(activation: str, steps: type[Steps], device: str) -> None:
    model = Classifier(net(activation, device), RUN, steps=KeptLosses(steps()))
    fit(model, data(device))
    ours, theirs = model.steps.losses, plain(activation, device)
    assert len(ours) == len(theirs) == ITERATIONS
    # On a GPU a graph's learning rate is float32.
    assert ours == pytest.approx(theirs, rel=1e-6 if device == "cuda" and steps is CudaGraph else 1e-9)
    assert max(theirs) / min(theirs) > 1.05  # the net has learnt something, or agreement would be cheap

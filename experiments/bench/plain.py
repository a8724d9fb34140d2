"""The baseline: FitNet-4, trained as in Lightning's own examples."""

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from replicate.run import Run


class PlainClassifier(pl.LightningModule):
    """Automatic optimisation with PyTorch's SGD and its scheduler."""

    def __init__(self, net: nn.Module, run: Run) -> None:
        super().__init__()
        self.net, self.run = net, run

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Compute the mean cross-entropy of a batch of images (n, c, h, w) and labels (n,)."""
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make SGD without decay on biases; the milestones are in iterations."""
        run = self.run
        groups = [
            {"params": [p for p in self.net.parameters() if p.ndim > 1], "weight_decay": run.weight_decay},
            {"params": [p for p in self.net.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        sgd = torch.optim.SGD(groups, lr=run.lr, momentum=run.momentum)
        steps = torch.optim.lr_scheduler.MultiStepLR(sgd, list(run.milestones), gamma=run.lr_factor)
        return {"optimizer": sgd, "lr_scheduler": {"scheduler": steps, "interval": "step"}}


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images (n, 3, 32, 32) and labels (n,), one at a time, cropped and mirrored by torchvision."""

    def __init__(self, images: Tensor, labels: Tensor, pad: int) -> None:
        self.images, self.labels = images, labels
        self.transform = v2.Compose([v2.RandomCrop(images.shape[-1], padding=pad), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def loader(
    images: Tensor, labels: Tensor, pad: int, batch_size: int, workers: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffle, augment in worker processes, and batch."""
    return DataLoader(
        Augmented(images, labels, pad),
        batch_size=batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )

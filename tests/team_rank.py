"""One of several processes that train one small net in float64, for test_parallel.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore
from training.test_agreement import RUN, data

from replicate.data.datamodule import DeviceData
from replicate.nn.activations import ACTIVATIONS
from replicate.nn.fitnet import FITNET4, build
from replicate.options import Options
from replicate.run import Run
from replicate.training.build import make_trainer
from replicate.training.module import Classifier
from replicate.training.parallel import HOST, join
from replicate.training.record import weights_sha256
from replicate.training.team import Alone, Team


class Recording(Team):
    """Keeps the losses of whole batches."""

    def __init__(self, *place: int) -> None:
        super().__init__(*place)
        self.seen: list[float] = []

    def losses(self, losses: Tensor) -> Tensor:
        whole = super().losses(losses)
        self.seen += whole.tolist()
        return whole


def fit(model: Classifier, batches: DeviceData, folder: Path, team: Alone) -> None:
    """Train in float64, as a run would."""
    run = Run("lsuv", "vlrelu", precision="32-true")
    trainer = make_trainer(run, Options(folder), batches, [], team)
    model.double()
    trainer.fit(model, datamodule=batches)


def train(rank: int, size: int, port: int, out: Path, change: dict[str, Any]) -> None:
    """Train as a rank; the losses and the digest of the weights go to `out/RANK.pt`."""
    torch.set_num_threads(1)
    join(TCPStore(HOST, port, size, is_master=False), "cpu", rank, size)
    batches = data("cpu", torch.float64, 7)
    team = Recording(rank, size, batches.sampler.batch_size)
    for name, value in change.items():
        setattr(team, name, value)
    batches.shard(rank, size)
    start = build(FITNET4, ACTIVATIONS["vlrelu"], width=0.125, dropout=0.0).double()
    if rank == 0:  # the others' are to be overwritten by the first one's
        start.load_state_dict(torch.load(out.parent / "start.pt", weights_only=True))
    model = Classifier(start, replace(RUN, clip_norm=3.0), team)
    fit(model, batches, out, team)
    found = {"losses": team.seen, "weights": weights_sha256(model.net), "test": model.take("val")}
    torch.save({**found, "predicted": model.predictions().tolist()}, out / f"{rank}.pt")

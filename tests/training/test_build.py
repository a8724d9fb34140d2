"""The parts of a training: its random streams, and how its data and its initialisation meet."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from replicate.data import load
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_, stream_seed

pytestmark = pytest.mark.usefixtures("few_images")


def test_seeds_are_pinned_to_their_definition() -> None:
    assert stream_seed(7, "batches") == int(hashlib.sha256(b"7/batches").hexdigest()[:16], 16) // 2
    # Rank 0 draws the same numbers as a single process.
    assert stream_seed(7, "dropout", 0) == stream_seed(7, "dropout")
    assert stream_seed(7, "dropout", 2) == int(hashlib.sha256(b"7/dropout/2").hexdigest()[:16], 16) // 2


@pytest.mark.parametrize("init", ["lsuv", "xavier"])
def test_lsuv_undoes_the_scale_and_other_initialisations_pass_it_on(tiny: Run, tmp_path: Path, init: str) -> None:
    dataset, outputs, first = load("synthetic", tmp_path), [], []
    for scale in (1.0, 0.5):  # a power of two, so that not even the rounding differs
        run = replace(tiny, init=init, input_scale=scale)
        data, net = build_data(run, dataset, "cpu"), build_net(run, 10, "cpu")
        init_net_(net, run, data)
        first.append(next(net.parameters()))
        outputs.append(net.eval()(data.test_images))
    assert torch.equal(first[1], (2 if init == "lsuv" else 1) * first[0])
    assert torch.equal(outputs[0], outputs[1]) == (init == "lsuv")

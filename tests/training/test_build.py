"""The parts of a training, put together."""

from dataclasses import replace

import pytest
import torch

from replicate.data.dataset import Dataset
from replicate.data.preprocess import gcn_mean_image
from replicate.data.sources import load
from replicate.run import Run
from replicate.training.build import build_data, build_net, init_net_

pytestmark = pytest.mark.usefixtures("few_images")


@pytest.fixture
def synthetic(tmp_path) -> Dataset:
    return load("synthetic", tmp_path)


def test_the_scale_multiplies_the_preprocessed_images_of_training_and_test(tiny: Run, synthetic: Dataset) -> None:
    train, test = gcn_mean_image(synthetic.train_images, synthetic.test_images)
    for scale in (1.0, 0.7):
        data = build_data(replace(tiny, input_scale=scale), synthetic, "cpu")
        assert torch.equal(data.train_images, scale * train)
        assert torch.equal(data.test_images, scale * test)


@pytest.mark.parametrize("init", ["lsuv", "xavier"])
def test_lsuv_undoes_the_scale_and_other_initialisations_hand_it_on(tiny: Run, synthetic: Dataset, init: str) -> None:
    outputs, first = [], []
    for scale in (1.0, 0.5):  # a power of two, so that not even the rounding differs
        run = replace(tiny, init=init, input_scale=scale)
        data, net = build_data(run, synthetic, "cpu"), build_net(run, 10, "cpu")
        init_net_(net, run, data)
        first.append(next(net.parameters()))
        outputs.append(net.eval()(data.test_images))
    assert torch.equal(first[1], (2 if init == "lsuv" else 1) * first[0])
    assert torch.equal(outputs[0], outputs[1]) == (init == "lsuv")

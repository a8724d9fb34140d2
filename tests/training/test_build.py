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


def test_the_weights_as_built_depend_on_the_seed_only(tiny: Run) -> None:
    before, nets = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        nets.append(build_net(replace(tiny, seed=seed), 10, "cpu"))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
        before = torch.get_rng_state()
    same = [all(map(torch.equal, nets[0].parameters(), net.parameters())) for net in nets]
    assert same == [True, True, False]


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


def conv1(run: Run, folder: Path) -> torch.Tensor:
    """The first weights of a run after its initialisation."""
    data, net = build_data(run, load("synthetic", folder), "cpu"), build_net(run, 10, "cpu")
    init_net_(net, run, data)
    return next(net.parameters()).detach()


def test_lsuv_rescales_the_weights_that_it_starts_with(tiny: Run, tmp_path: Path) -> None:
    lsuv, msra = replace(tiny, init="lsuv", lsuv_start="msra"), replace(tiny, init="msra")
    ratio = conv1(lsuv, tmp_path) / conv1(msra, tmp_path)
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))
    assert not torch.equal(conv1(lsuv, tmp_path), conv1(replace(lsuv, lsuv_start="orthonormal"), tmp_path))


def test_lsuv_measures_on_the_images_that_are_asked_for(tiny: Run, tmp_path: Path) -> None:
    run, dataset = replace(tiny, init="lsuv"), load("synthetic", tmp_path)
    darker = replace(dataset, train_images=dataset.train_images // 4, label="darker")
    weights = {}
    for name, images in (("plain", dataset), ("darker", darker)):
        for source in ("training", "synthetic"):
            asked = replace(run, preprocessing="none", lsuv_data=source)
            data, net = build_data(asked, images, "cpu"), build_net(asked, 10, "cpu")
            init_net_(net, asked, data)
            weights[name, source] = next(net.parameters())
    assert torch.equal(weights["darker", "synthetic"], weights["plain", "training"])
    assert not torch.equal(weights["darker", "training"], weights["plain", "training"])
    noisy = replace(run, lsuv_data="noise", lsuv_dropout=False, input_scale=0.5)
    # independent inputs of variance 1/4 and weights of length c give a variance of c²/4, less at the borders
    weight = conv1(noisy, tmp_path)
    inside = (30 * 30 + 4 * 30 * 2 / 3 + 4 * 4 / 9) / 32**2  # the mean share of a kernel that covers the image
    variance = 0.25 * float(weight.square().sum((1, 2, 3)).mean()) * inside
    assert variance == pytest.approx(1, abs=0.1)


def test_lsuv_can_take_a_maxout_layer_as_a_whole(tiny: Run, tmp_path: Path) -> None:
    run = replace(tiny, init="lsuv", activation="maxout", lsuv_pieces=False)
    data, net = build_data(run, load("synthetic", tmp_path), "cpu"), build_net(run, 10, "cpu")
    rows, passes = init_net_(net, run, data)
    assert passes > len(rows)  # LSUV measures each layer at least once
    assert [(row["layer"], row["piece"]) for row in rows[:2]] == [("conv1", 0), ("conv2", 0)]
    assert net.get_submodule("conv1").pieces == 2  # as before, for what is measured later
    matrix = next(net.parameters()).detach().flatten(1)  # 2·out in·9: orthogonal as a whole
    scale = float((matrix @ matrix.T).diagonal().mean())
    torch.testing.assert_close(matrix @ matrix.T, scale * torch.eye(len(matrix)), atol=1e-5, rtol=0)


def test_other_initialisations_keep_the_pieces(tiny: Run, tmp_path: Path) -> None:
    run = replace(tiny, init="maxout_normal", activation="maxout")
    assert torch.equal(conv1(run, tmp_path), conv1(replace(run, lsuv_pieces=False), tmp_path))
    data, net = build_data(run, load("synthetic", tmp_path), "cpu"), build_net(run, 10, "cpu")
    rows, passes = init_net_(net, replace(run, lsuv_pieces=False), data)
    assert (len(rows), passes) == (17 * 2 + 5 + 1, 0)

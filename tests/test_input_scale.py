"""experiments/input_scale.py: the nets, the likelihood, and the page."""

import math
from pathlib import Path

import first_iterations
import highway_nets
import input_scale
import numpy as np
import pandas as pd
import pytest
import torch
from script import run_app
from torch import nn

from replicate.data import load


def test_the_net_is_the_one_of_the_prototxt() -> None:
    net = highway_nets.HighwayNet(torch.Generator().manual_seed(1))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def conv(weights: torch.Tensor, bias: float = 0.0) -> nn.Conv2d:
        out, into, size, _ = weights.shape
        made = nn.Conv2d(into, out, size, padding=size // 2)
        with torch.no_grad():
            made.weight.copy_(weights)
            made.bias.fill_(bias)
        return made

    x = images
    for plain, layers in net.stacks:
        x = conv(plain)(x).relu()
        for hidden, gate in layers:
            share = conv(gate, bias=-2.0)(x).sigmoid()
            x = conv(hidden)(x).relu() * share + x - x * share
        if x.shape[2] > 8:
            x = nn.MaxPool2d(2)(x)
    features = conv(net.last)(x).relu().mean(dim=(2, 3))
    torch.testing.assert_close(net(images), features, rtol=1e-4, atol=1e-4)

    widths = [(len(plain), plain.shape[1], len(layers)) for plain, layers in net.stacks]
    assert widths == [(32, 3, 4), (80, 32, 5), (128, 80, 5)]
    assert net.stacks[0][0].std() == pytest.approx(1, abs=0.1)
    assert net.stacks[1][1][0][0].var() == pytest.approx(2 / (80 * 9), rel=0.05)
    assert net.heads[10].std() == pytest.approx(0.05, rel=0.1)
    assert net.heads[100].var() == pytest.approx(2 / 100, rel=0.05)

    labels = torch.arange(10).repeat_interleave(2)  # each image with each label
    logits = (features @ net.heads[10].T).repeat(10, 1)
    by_label = nn.functional.cross_entropy(logits, labels).item()
    assert highway_nets.first_losses(net, images)[10] == pytest.approx(by_label, rel=1e-4)


def test_the_likelihood_of_losses_with_a_known_one() -> None:
    # The excess of the losses over chance is log-normal: median scale², deviation 0.3.
    noise = np.random.default_rng(0).normal(0, 0.3, (2, 400))
    parts = [
        pd.DataFrame({"classes": classes, "scale": scale, "loss": math.log(classes) + scale**2 * np.exp(noise[row])})
        for row, classes in enumerate((10, 100))
        for scale in highway_nets.SCALES
    ]
    # The deviation of the estimate of log(scale) is 0.3 / 2 by one log, and 0.3 / 2 / √2 by two.
    logs = {classes: math.log(classes) + 0.7**2 for classes in (10, 100)}
    likelihoods = input_scale.log_likelihoods(pd.concat(parts), logs)
    for one, error in ((likelihoods[10], 0.15), (sum(likelihoods.values()), 0.15 / math.sqrt(2))):
        best, low, high = input_scale.interval(one)
        assert best == pytest.approx(0.7, rel=0.03)
        assert low == pytest.approx(0.7 * math.exp(-1.96 * error), rel=0.05)
        assert high == pytest.approx(0.7 * math.exp(1.96 * error), rel=0.05)


def test_from_images_to_the_page_resuming_earlier_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "losses.csv"
    highway_nets.draw_all(file, load("synthetic", tmp_path), 3, 1)
    first = file.read_text().splitlines()
    assert len(first) == 1 + 3 * 9 * 2
    monkeypatch.setattr(first_iterations, "CELLS", (("xavier", "maxout"),))
    words = ["--dataset", "synthetic", "--images", "1", "--iterations", "1", "--width", "0.125", "--out", str(tmp_path)]
    assert run_app(input_scale.app, [*words, "--draws", "4"]) == 0
    assert file.read_text().splitlines()[: len(first)] == first
    assert len(file.read_text().splitlines()) == len(first) + 18
    page, output = (tmp_path / "input_scale.md").read_text(), capsys.readouterr().out
    assert output.startswith("Estimate: **0.")
    assert output.splitlines()[0] in page
    assert "\n| Xavier × maxout | 0.25 |" in page
    assert "![Losses and likelihoods over the scale](likelihood.png)" in page
    assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")

"""experiments/input_scale.py: the nets, the likelihood, and the way from images to page."""

import math
import subprocess
import sys
from pathlib import Path

import input_scale
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "experiments" / "input_scale.py"


def test_the_net_is_the_one_of_the_prototxt() -> None:
    net = input_scale.HighwayNet(torch.Generator().manual_seed(1))
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
    assert input_scale.first_losses(net, images)[10] == pytest.approx(by_label, rel=1e-4)


def made_up(seed: int, slope: float = 2.0, deviation: float = 0.3, draws: int = 400) -> pd.DataFrame:
    """Losses whose excess over chance has the median scale**slope."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"classes": classes, "scale": scale, "loss": math.log(classes) + scale**slope * math.exp(noise)}
        for classes in (10, 100)
        for noise in rng.normal(0, deviation, draws)
        for scale in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
    )


def test_the_likelihood_of_losses_with_a_known_one() -> None:
    # log(excess) is normal with mean 2 log(scale) and deviation 0.3, so log(scale) has the error 0.3 / 2 by one log,
    # and 0.3 / 2 / √2 by two.
    logs = {classes: math.log(classes) + 0.7**2 for classes in (10, 100)}
    likelihoods = input_scale.log_likelihoods(made_up(0), logs)
    for one, error in ((likelihoods[10], 0.15), (sum(likelihoods.values()), 0.15 / math.sqrt(2))):
        best, low, high = input_scale.interval(one)
        assert best == pytest.approx(0.7, rel=0.03)
        assert low == pytest.approx(0.7 * math.exp(-1.96 * error), rel=0.05)
        assert high == pytest.approx(0.7 * math.exp(1.96 * error), rel=0.05)


def test_the_interval_covers_the_true_scale() -> None:
    rng = np.random.default_rng(1)
    losses = made_up(2)
    covered = 0
    for _ in range(200):
        logs = {classes: math.log(classes) + 0.7**2 * math.exp(rng.normal(0, 0.3)) for classes in (10, 100)}
        _, low, high = input_scale.interval(sum(input_scale.log_likelihoods(losses, logs).values()))
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 198  # 95 % of 200, ± 3 standard deviations


def test_from_images_to_the_page_and_on_from_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--dataset", "synthetic", "--images", "2", "--iterations", "1"]
    command += ["--width", "0.125", "--out", str(tmp_path)]
    subprocess.run([*command, "--draws", "2"], check=True, cwd=tmp_path, capture_output=True)
    first = (tmp_path / "losses.csv").read_text().splitlines()
    assert len(first) == 1 + 2 * 9 * 2
    done = subprocess.run([*command, "--draws", "3"], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "losses.csv").read_text().splitlines()[: len(first)] == first
    assert len((tmp_path / "losses.csv").read_text().splitlines()) == len(first) + 18
    page = (tmp_path / "input_scale.md").read_text()
    assert done.stdout.startswith("Estimate: **0.")
    assert done.stdout.splitlines()[0] in page
    assert page.count("\n| Xavier × maxout |") == 3
    assert "![Losses and likelihoods over the scale](likelihood.png)" in page
    assert (tmp_path / "likelihood.png").read_bytes().startswith(b"\x89PNG")

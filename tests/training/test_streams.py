"""Named streams of random numbers."""

import hashlib

import pytest
import torch

from replicate.errors import UsageError
from replicate.training.streams import STREAMS, stream, stream_seed


def test_seeds_are_pinned_to_their_definition() -> None:
    digest = hashlib.sha256(b"7/batches").hexdigest()
    assert stream_seed(7, "batches") == int(digest[:16], 16) // 2


def test_each_process_has_a_stream_of_its_own_and_the_first_that_of_a_process_alone() -> None:
    assert stream_seed(7, "dropout", 0) == stream_seed(7, "dropout")
    digest = hashlib.sha256(b"7/dropout/2").hexdigest()
    assert stream_seed(7, "dropout", 2) == int(digest[:16], 16) // 2


def test_streams_of_one_seed_are_independent() -> None:
    draws = {name: torch.rand(1000, generator=stream(0, name)) for name in STREAMS}
    for name in STREAMS:
        for other in STREAMS:
            correlation = torch.corrcoef(torch.stack([draws[name], draws[other]]))[0, 1].item()
            assert (abs(correlation) < 0.12) == (name != other)  # 0.12 is 3.8 standard errors


def test_a_stream_starts_anew_at_each_call() -> None:
    assert torch.equal(torch.rand(5, generator=stream(3, "init")), torch.rand(5, generator=stream(3, "init")))
    assert not torch.equal(torch.rand(5, generator=stream(3, "init")), torch.rand(5, generator=stream(4, "init")))


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown random stream 'noise'; choose from: init, lsuv, batches, dropout"):
        stream(0, "noise")

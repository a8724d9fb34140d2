"""What torch finds here."""

import pytest
import torch

from replicate.training.probe import probe


def test_what_torch_finds_is_told_as_plain_data() -> None:
    told = probe(lambda *value: None)
    assert told["cuda"] == torch.version.cuda
    assert len(told["gpus"]) == torch.cuda.device_count()
    assert told["capability"] in ("DEFAULT", "AVX2", "AVX512", "NEON", "SVE256", "VSX", "Z VECTOR", "NO AVX")


def test_a_gpu_that_fails_is_named_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(number: int) -> None:
        raise RuntimeError("CUDA error: busy\nmore")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"model {number}")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: fail(number) if number else (1, 2))
    assert probe(lambda *value: None)["gpus"] == [
        ("model 0", 1, 2, None),
        ("model 1", 0, 0, "CUDA error: busy"),
    ]

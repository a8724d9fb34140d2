"""LSUV for Hugging Face's trainer."""

from pathlib import Path

import pytest
import torch
from init.zoo import generator

from replicate.init import measure
from replicate.init.hugging_face import lsuv_trainer_

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate, which its trainer needs, is not installed")


def test_the_model_of_a_trainer_is_initialised_and_can_be_trained(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    model = transformers.GPT2LMHeadModel(config)
    tokens = torch.randint(50, (32, 12), generator=generator())
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=2, per_device_train_batch_size=16, report_to="none", use_cpu=True, disable_tqdm=True
    )
    data = [{"input_ids": row, "labels": row, "index": 3} for row in tokens]
    trainer = transformers.Trainer(model, arguments, train_dataset=data)
    report = lsuv_trainer_(trainer, dropout=False, generator=generator(1))
    assert [row.status for row in report] == ["converged"] * 8 + ["shared weight"]
    assert all(
        row.variance == pytest.approx(1, abs=0.1)
        for row in measure(model, {"input_ids": tokens}, dropout=False)
        if row.layer != "lm_head"
    )
    assert trainer.train().training_loss > 0

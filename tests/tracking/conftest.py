"""An experiment of four runs; and no key for W&B."""

from pathlib import Path

import pytest

from replicate.experiment import Experiment, TableSpec

PAPER = Path(__file__).parents[2] / "results" / "paper"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DATA_DIR", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")  # so that it is restored after the test, even if the test sets it
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def experiment() -> Experiment:
    return Experiment(
        name="two by two",
        grid={"init": ("lsuv", "xavier"), "activation": ("relu", "sigmoid"), "seed": (0,)},
        run={"iterations": 8, "milestones": [4]},
        table=TableSpec(reference=PAPER / "table3.csv", claims=PAPER / "claims.yaml"),
    )

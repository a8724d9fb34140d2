"""Options, and the mode of W&B."""

import sys
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.options import Options, check_step, wandb_key_known, wandb_mode


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the key and the settings of whoever runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_options_are_plain_data_in_a_record() -> None:
    assert Options(Path("out")).plain() == {
        **{"device": "cpu", "threads": 1, "devices_per_run": 1, "wandb": "off", "experiment": "local"},
        "runs_per_device": 1,
        "checkpoint_seconds": 60.0,
        "step": "auto",
        "deterministic": True,
    }


def test_the_cpu_is_deterministic_without_being_asked() -> None:
    assert Options(Path("out")).strict
    assert not Options(Path("out"), device="cuda").strict
    assert Options(Path("out"), device="cuda").plain()["deterministic"] is False
    assert Options(Path("out"), device="cuda", deterministic=True).strict


@pytest.mark.parametrize("step", ["graph", "compiled"])
def test_graphs_are_for_one_gpu(step: str) -> None:
    check_step(step, ["cuda"], 1)
    with pytest.raises(UsageError, match=f"--step {step} needs an NVIDIA GPU; elsewhere choose from: auto, eager"):
        check_step(step, ["cuda", "cpu"], 1)
    with pytest.raises(UsageError, match=f"--step {step} needs an NVIDIA GPU"):
        check_step(step, ["mps"], 1)
    with pytest.raises(UsageError, match=f"--step {step} is for one device; with --devices-per-run choose from: auto"):
        check_step(step, ["cuda"], 2)
    for always in ("auto", "eager"):
        check_step(always, ["cuda", "cpu"], 2)


def test_wandb_is_offline_unless_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")  # one that happens to be on the machine is not used unasked
    assert wandb_mode(None) == "offline"
    assert wandb_mode("online") == "online"
    for said, mode in (("online", "online"), ("disabled", "off"), ("dryrun", "offline"), ("nonsense", "offline")):
        monkeypatch.setenv("WANDB_MODE", said)
        assert wandb_mode(None) == mode
    assert wandb_mode("off") == "off"


def test_the_key_must_be_that_of_the_server_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not wandb_key_known()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert wandb_key_known()


def test_wandb_is_off_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert wandb_mode(None) == "off"


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown --wandb 'of'.*choose from: off, offline, online"):
        wandb_mode("of")

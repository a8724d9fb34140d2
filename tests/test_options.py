"""Options, resources, and the mode of W&B."""

import re
import sys
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from replicate.errors import UsageError
from replicate.options import Options, Resources, default_wandb_mode, wandb_key_known


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the W&B key and settings of the user who runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_options_are_plain_data_in_a_record() -> None:
    plain = {"device": "cpu", "threads": 1, "devices_per_run": 1, "runs_per_device": 1, "wandb": "off"}
    plain |= {"experiment": "local", "checkpoint_seconds": 60.0, "step": "auto", "deterministic": True}
    assert Options(Path("out")).plain() == plain  # the CPU is deterministic without being asked
    assert Options(Path("out"), device="cuda").plain() == plain | {"device": "cuda", "deterministic": False}
    assert Options(Path("out"), device="cuda", deterministic=True).strict


def test_graphs_are_for_one_gpu() -> None:
    graph = Resources(step="graph")
    graph.check_step(["cuda"])
    with pytest.raises(UsageError, match="--step graph needs an NVIDIA GPU; elsewhere choose from: auto, eager"):
        graph.check_step(["cuda", "cpu"])
    with pytest.raises(UsageError, match="--step compiled is for one device; with --devices-per-run choose from: auto"):
        Resources(step="compiled", devices_per_run=2).check_step(["cuda"])
    Resources(step="eager", devices_per_run=2).check_step(["cuda", "cpu"])


def test_wandb_is_offline_by_default_and_off_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")  # a key that happens to be on the machine is not used unasked
    assert default_wandb_mode() == "offline"
    for said, mode in (("online", "online"), ("disabled", "off"), ("dryrun", "offline"), ("nonsense", "offline")):
        monkeypatch.setenv("WANDB_MODE", said)
        assert default_wandb_mode() == mode
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert default_wandb_mode() == "off"


def test_the_key_must_be_that_of_the_server_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not wandb_key_known()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert wandb_key_known()


def test_time_limit() -> None:
    lengths = {None: inf, "90": 90, "90s": 90, "1.5m": 90, "2h": 7200, "1d": 86_400}
    assert {text: Resources(time_limit=text).seconds for text in lengths} == lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "--workers is for clusters; on this machine, use --per-device"),
        ({"launcher": "slurm", "workers": 1001}, "--workers 1001 is out of range; give 1 to 1000"),
        ({"threads_per_run": 0}, "--threads-per-run 0 is out of range; give 1 or more"),
        ({"retries": -1}, "--retries -1 is out of range; give 0 or more"),
        *(({"checkpoint_seconds": wrong}, "is out of range; give 0 or more") for wrong in (-1.0, nan)),
        ({"devices": "gpu"}, "unknown device 'gpu'; choose from: auto, cpu, or GPU numbers such as 0,1"),
        ({"devices": "0,1,0"}, "--devices 0,1,0 names a GPU twice; for several runs on one GPU use --per-device"),
        ({"launcher": "slurm", "ray": {"address": "x"}}, "--ray.address needs --launcher ray"),
        ({"time_limit": "soon"}, "--time-limit 'soon' is not a length of time; give seconds, or 90s, 10m, 2h, 1d"),
        ({"time_limit": "0"}, "--time-limit '0' is not a length of time"),
    ],
)
def test_resources_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        Resources(**options)

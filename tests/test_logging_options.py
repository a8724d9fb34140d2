"""Where runs are logged: loggers, and W&B's mode, project, entity, tags and key."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from replicate.errors import UsageError
from replicate.logging_options import Logging, WandbProject, default_wandb_mode, resolved, wandb_key_known


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the W&B key and settings of the user who runs the tests."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_wandb_is_offline_by_default_and_off_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")  # a key that happens to be on the machine is not used unasked
    assert default_wandb_mode() == "offline"
    for said, mode in (("online", "online"), ("disabled", "off"), ("dryrun", "offline"), ("Offline", "offline")):
        monkeypatch.setenv("WANDB_MODE", said)
        assert default_wandb_mode() == mode
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(UsageError, match=r"unknown WANDB_MODE 'onlin'.*choose from: disabled, dryrun, offline, online"):
        default_wandb_mode()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert default_wandb_mode() == "off"


def test_the_environment_names_project_and_entity_unless_the_options_do(monkeypatch: pytest.MonkeyPatch) -> None:
    given = Logging(wandb_project="mine", wandb_entity="me")
    assert (Logging().project, Logging().entity) == ("lsuv-replication", None)
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert [(one.project, one.entity) for one in (WandbProject(), given)] == [("ours", "team"), ("mine", "me")]


def test_workers_elsewhere_log_as_the_environment_of_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    sent = [resolved(Logging(wandb_tags="a")), resolved(Logging(wandb="off")), resolved(Logging(logger="csv"))]
    monkeypatch.setenv("WANDB_MODE", "online")  # of another machine
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.delenv("WANDB_ENTITY")
    assert [one.mode for one in sent] == ["offline", "off", "off"]
    assert (sent[0].project, sent[0].entity, sent[0].tags) == ("ours", "team", ["a"])


def test_another_logger_takes_the_place_of_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    modes = [one.mode for one in (Logging(), Logging(wandb="offline"), Logging(logger="csv"))]
    assert modes == ["online", "offline", "off"]
    assert Logging(logger="csv", wandb="off").mode == "off"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logger": "csv", "wandb": "online"}, "--wandb online needs --logger wandb, not csv"),
        ({"logger": "csv", "wandb_tags": "a"}, "--wandb-tags a needs --logger wandb, not csv"),
        ({"logger": "tensorboard"}, "needs the package tensorboard; install it: pip install tensorboard"),
        (
            {"wandb_project": "a/b"},
            "'a/b' (--wandb-project or WANDB_PROJECT) is no name of a W&B project; give 1 to 128 characters without",
        ),
        ({"wandb_tags": "a,,b"}, "--wandb-tags 'a,,b': W&B's tags have 1 to 64 characters, not 0"),
    ],
)
def test_logging_that_makes_no_sense(options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tensorboard", "tensorboardX"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=re.escape(message)):
        Logging(**options)


def test_the_key_must_be_that_of_the_server_in_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert not wandb_key_known()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert wandb_key_known()

"""Options: where runs are logged while they train, at Weights & Biases or by one of Lightning's loggers.

The fields of `Logging` are options of the command line, and their descriptions are its help.
"""

import importlib.util
import netrc
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from replicate.errors import UsageError, unknown

WandbMode = Literal["off", "offline", "online"]
WANDB_PROJECT = "lsuv-replication"
# W&B's own words, in the environment variable WANDB_MODE
WANDB_WORDS: Mapping[str, WandbMode] = {
    "disabled": "off",
    "dryrun": "offline",
    "offline": "offline",
    "online": "online",
    "run": "online",
    "shared": "online",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WandbProject:
    """Where runs are at Weights & Biases.

    Args:
        wandb_project: W&B project (default: WANDB_PROJECT, else lsuv-replication).
        wandb_entity: W&B user or team (default: WANDB_ENTITY, else that of the key).

    Raises:
        UsageError: W&B allows no such name.
    """

    wandb_project: str | None = None
    wandb_entity: str | None = None

    def __post_init__(self) -> None:
        if self.wandb_project is not None and not re.fullmatch(r"[^/\\#?%:]{1,128}", self.wandb_project):
            problem = f"{self.wandb_project!r} (--wandb-project or WANDB_PROJECT) is no name of a W&B project"
            raise UsageError(rf"{problem}; give 1 to 128 characters without / \ # ? % :")

    @property
    def project(self) -> str:
        """The project, as asked for or as the environment says."""
        return self.wandb_project or os.environ.get("WANDB_PROJECT") or WANDB_PROJECT

    @property
    def entity(self) -> str | None:
        """The user or team, as asked for or as the environment says; None: that of the key."""
        return self.wandb_entity or os.environ.get("WANDB_ENTITY") or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging(WandbProject):
    """Where runs are logged while they train. Their files in the output folder are always written.

    Args:
        logger: wandb (Weights & Biases), or one of Lightning's loggers, which writes below the folder of each run: csv
            (csv/metrics.csv) or tensorboard (tensorboard/) (default: wandb).
        wandb: Mirror runs to Weights & Biases, with --logger wandb (default: as WANDB_MODE says, else offline).
        wandb_tags: W&B tags, such as laptop,first, in addition to the initialisation and the activation.

    Raises:
        UsageError: two options contradict each other, a package is missing, or W&B allows no such name.
    """

    logger: Literal["wandb", "csv", "tensorboard"] = "wandb"
    wandb: WandbMode | None = None
    wandb_tags: str | None = None

    def __post_init__(self) -> None:
        WandbProject.__post_init__(self)
        if self.logger != "wandb":
            for name in ("wandb", "wandb_project", "wandb_entity", "wandb_tags"):
                if (value := getattr(self, name)) not in (None, "off"):
                    raise UsageError(f"--{name.replace('_', '-')} {value} needs --logger wandb, not {self.logger}")
        if self.logger == "tensorboard" and not any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))):
            raise UsageError("--logger tensorboard needs the package tensorboard; install it: pip install tensorboard")
        for length in map(len, self.tags):
            if not 1 <= length <= 64:
                raise UsageError(f"--wandb-tags {self.wandb_tags!r}: W&B's tags have 1 to 64 characters, not {length}")

    @property
    def mode(self) -> WandbMode:
        """How runs are mirrored to Weights & Biases, see `default_wandb_mode`."""
        return "off" if self.logger != "wandb" else self.wandb or default_wandb_mode()

    @property
    def tags(self) -> list[str]:
        """The tags, one by one."""
        return self.wandb_tags.split(",") if self.wandb_tags is not None else []


def resolved(options: Logging) -> Logging:
    """The options with what this machine's environment says, which the workers of a cluster may not have.

    Raises:
        UsageError: WANDB_PROJECT is no name of a project.
    """
    if options.mode == "off":
        return replace(options, wandb="off")
    return replace(options, wandb=options.mode, wandb_project=options.project, wandb_entity=options.entity)


def default_wandb_mode() -> WandbMode:
    """How runs are mirrored to Weights & Biases if nobody says: as WANDB_MODE says, else offline.

    A key that happens to be on the machine is not used unasked. Without the package wandb, the mode is off.

    Raises:
        UsageError: WANDB_MODE is no mode.
    """
    if importlib.util.find_spec("wandb") is None:
        return "off"
    word = os.environ.get("WANDB_MODE") or "offline"
    if word.lower() not in WANDB_WORDS:
        raise unknown("WANDB_MODE", word, WANDB_WORDS)
    return WANDB_WORDS[word.lower()]


def wandb_key_known() -> bool:
    """Whether the environment or the user's netrc holds a key of W&B's server (WANDB_BASE_URL, if that is set)."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname in netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False

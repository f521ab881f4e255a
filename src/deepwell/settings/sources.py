"""Sources of settings: the file, the folders of cache and data, and the error for a value that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

from deepwell.errors import DeepwellError

__all__ = ["ENV_PREFIX", "InvalidSettings", "cache_root", "config_file", "data_root", "state_root"]

ENV_PREFIX = "DEEPWELL_"


class InvalidSettings(DeepwellError):
    """Raised for a setting with an unusable value. The message names the setting and the value's source."""

    type = "invalid_settings"


def cache_root() -> Path:
    """Returns the folder of what can be fetched or made again."""
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepwell"


def data_root() -> Path:
    """Returns the folder of what only this machine has."""
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "data"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "deepwell"


def state_root() -> Path:
    """Returns the folder of what a server remembers about its own runs."""
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "state"
    if home := os.environ.get("XDG_STATE_HOME"):
        return Path(home) / "deepwell"
    try:
        return Path.home() / ".local" / "state" / "deepwell"
    except RuntimeError:  # a container may run as a user that has no home
        return Path("/var/lib/deepwell/state")


def config_file() -> Path:
    """Returns the TOML file of the settings: `DEEPWELL_CONFIG`, else `~/.config/deepwell/config.toml`.

    `DEEPWELL_HOME` and `XDG_CONFIG_HOME` move the default.
    """
    if path := os.environ.get("DEEPWELL_CONFIG"):
        return Path(path)
    if home := os.environ.get("DEEPWELL_HOME"):
        return Path(home) / "config.toml"
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "deepwell" / "config.toml"

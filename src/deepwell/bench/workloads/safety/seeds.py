"""Reads the YAML files of pyrit's wheel."""

from __future__ import annotations

from typing import Any

from deepwell.errors import MissingDependency

__all__ = ["load", "values"]


def load(text: str) -> Any:
    """Returns what a YAML document holds.

    Raises:
        MissingDependency: PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError as error:
        raise MissingDependency(
            "the attack sets need PyYAML", fix="run `pip install pyyaml`, or `make bench` in a clone"
        ) from error
    return yaml.safe_load(text)


def values(text: str) -> list[str]:
    """Returns the texts of the seeds of a `.prompt` file. Raises as `load`."""
    seeds = load(text)["seeds"]
    return [one["value"] for one in seeds if isinstance(one.get("value"), str)]

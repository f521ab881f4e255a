"""Reads the YAML files of wheels."""

from __future__ import annotations

from typing import Any

__all__ = ["load", "values"]


def load(text: str) -> Any:
    """Returns what a YAML document holds."""
    import yaml

    # libyaml takes a tenth of the time; both loaders are the safe one
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506


def values(text: str) -> list[str]:
    """Returns the texts of the seeds of a `.prompt` file of pyrit."""
    return [one["value"] for one in load(text)["seeds"] if isinstance(one.get("value"), str)]

"""Deployments of an alias on this machine."""

from __future__ import annotations

from typing import Any

__all__ = ["deployment_of"]


def deployment_of(alias: str) -> dict[str, Any] | None:
    """Returns what the deployment of an alias tells that runs on this machine; None: there is none."""
    from deepwell.fleet.deploy.machine import running_deployments
    from deepwell.settings import Settings

    found = running_deployments(Settings.load()).values()
    return next((one for one in found if one.get("alias") == alias), None)

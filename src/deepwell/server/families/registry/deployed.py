"""The API's description of what supervisors of deployments tell. A file of another version is no reason for a 500."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from deepwell.server.families.registry.bodies import (
    Deployment,
    DeploymentGate,
    DeploymentReplica,
    DeploymentRollout,
    DeploymentSlot,
)

__all__ = ["deployment_body"]

_MOST = 2**53
_ROLES = {"starting": "candidate", "serving": "candidate"}


def deployment_body(told: Mapping[str, Any]) -> Deployment:
    """Returns a deployment, without process ids, ports and paths of its machine."""
    front, current = _object(told.get("front")), told.get("current")
    rollout = _object(told.get("rollout"))
    return Deployment(
        str(told.get("name", "")),
        str(told.get("alias", "")),
        _text(told.get("grade")),
        _number(told.get("began")) or 0.0,
        _text(told.get("url")),
        _text(told.get("model")),
        _replica({"name": "front", **front}) if front else None,
        [_slot(one, current) for one in _objects(told.get("slots"))],
        _rollout(rollout) if rollout else None,
    )


def _slot(told: Mapping[str, Any], current: object) -> DeploymentSlot:
    name, phase = str(told.get("slot", "")), str(told.get("phase", ""))
    role = "current" if name == current else _ROLES.get(phase, phase)
    release = _text(_object(told.get("release")).get("name"))
    return DeploymentSlot(name, role, release, [_replica(one) for one in _objects(told.get("replicas"))])


def _replica(told: Mapping[str, Any]) -> DeploymentReplica:
    return DeploymentReplica(
        str(told.get("name", "")), str(told.get("state", "")), int(_number(told.get("restarts")) or 0)
    )


def _rollout(told: Mapping[str, Any]) -> DeploymentRollout:
    gates = [
        DeploymentGate(
            str(one.get("name", "")),
            _number(one.get("current")),
            _number(one.get("candidate")),
            _number(one.get("bound")) or 0.0,
            one.get("holds") is True,
        )
        for one in _objects(told.get("findings"))
    ]
    steps: Any = told.get("steps")
    return DeploymentRollout(
        str(told.get("id", "")),
        str(told.get("version", "")),
        _number(told.get("share")) or 0.0,
        [_number(one) or 0.0 for one in steps] if isinstance(steps, list) else None,  # pyright: ignore[reportUnknownVariableType]
        _number(told.get("held_s")),
        str(told.get("next", "")),
        gates,
    )


def _object(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _objects(value: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list):
        return []
    return [found for one in cast("Iterable[Any]", value) if (found := _object(one))]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < _MOST:
        return None  # an infinity and NaN, which Python reads, as well
    return float(value)

"""Steps of a roll-out in a deployment, as the options and its declaration say."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.storage.registry.story import Steps

__all__ = ["deployment_of", "steps_of"]

_HOLD_S = 30.0
_MOST_HOLD_S = 86_400.0


def deployment_of(alias: str) -> dict[str, Any] | None:
    """Returns what the deployment of an alias tells that runs on this machine; None: there is none."""
    from deepwell.fleet.deploy.machine import running_deployments
    from deepwell.settings import Settings

    found = running_deployments(Settings.load()).values()
    return next((one for one in found if one.get("alias") == alias), None)


def steps_of(
    deployed: Mapping[str, Any] | None, steps: str | None, hold: float | None, kind: str | None
) -> Steps | None:
    """Returns the steps of a roll-out; None: there is no deployment, and none were asked for.

    Raises:
        InvalidRequest: the steps are no percentages that rise to 100, or the time is none.
    """
    from deepwell.storage.registry.story import Steps

    if deployed is None and steps is None and hold is None and kind is None:
        return None
    declared: Mapping[str, Any] = {} if deployed is None else deployed.get("terms") or {}
    chosen = (kind or declared.get("kind") or "canary").replace("-", "_")
    seconds = hold if hold is not None else float(declared.get("hold_seconds", _HOLD_S))
    if not 0 <= seconds <= _MOST_HOLD_S:  # not even a number would hold no step at all
        raise InvalidRequest(
            f"a step cannot be held for {seconds:g} s", fix=f"name 0 to {_MOST_HOLD_S:g} seconds"
        )
    if chosen == "blue_green":
        if steps is not None:
            raise InvalidRequest.of("rollout_steps", steps=f"{steps} of blue-green")
        return Steps("blue_green", (1.0,), seconds)
    given = steps or ",".join(f"{100 * one:g}" for one in declared.get("steps", ())) or "5,25,50,75,100"
    try:
        shares = tuple(float(one) / 100 for one in given.split(","))
    except ValueError:
        raise InvalidRequest.of("rollout_steps", steps=given) from None
    rises = all(one < later for one, later in pairwise(shares))  # which no NaN does
    if not rises or not shares[0] > 0 or shares[-1] != 1:
        raise InvalidRequest.of("rollout_steps", steps=given)
    return Steps("canary", shares, seconds)

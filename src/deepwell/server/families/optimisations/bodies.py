"""The bodies of `/v1/prompt_optimisations`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from deepwell.server.families.fine_tuning.bodies import FineTuningError

__all__ = ["Optimisation", "OptimisationList", "StartedWith"]


class StartedWith(Struct):
    """The version of a prompt that a search began with."""

    id: str
    version: str


class Optimisation(Struct, tag_field="object", tag="prompt.optimisation"):
    """A search for a better prompt.

    `progress` has `done`, `total` and `step`: search, or held-out. `result` has `start` and `winner` with their scores,
    `held_out` with the difference and its interval, `better`, and the `version` that the winner became.
    """

    id: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    prompt: StartedWith
    model: str
    data_file: str
    held_out_file: str | None
    metric: str | dict[str, Any]
    calls: int
    seed: int
    current: bool
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: FineTuningError | None
    metadata: dict[str, str] | None


class OptimisationList(Struct, tag_field="object", tag="list"):
    """A page of searches."""

    data: list[Optimisation]
    first_id: str | None
    last_id: str | None
    has_more: bool

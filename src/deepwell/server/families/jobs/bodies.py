"""The bodies of `/v1/jobs`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

__all__ = ["Job", "JobList"]


class Job(Struct, tag_field="object", tag="job"):
    """Durable work. `progress` has, where it is known, `done`, `total`, `unit`, `step` and `series`.

    `subject` says what a compression or a search for a prompt is about, as `method`, `model`, `name` and `prompt`.
    """

    id: str
    kind: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    finished_at: int | None
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: str | None
    attempts: int
    cancel_requested: bool
    subject: dict[str, str] | None


class JobList(Struct, tag_field="object", tag="list"):
    """A page of jobs."""

    data: list[Job]
    first_id: str | None
    last_id: str | None
    has_more: bool

"""The bodies of `/v1/compression/jobs`."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from deepwell.server.families.fine_tuning.bodies import FineTuningError

__all__ = ["CompressionEvent", "CompressionEventList", "CompressionJob", "CompressionJobList"]


class CompressionJob(Struct, tag_field="object", tag="compression.job"):
    """A compression.

    `options` are those of the method. `progress` has the `step` that is under way, and `done` of `total` per cent of it.
    `result` has `bytes` and `base_bytes`, in `held_out` the losses of donor (`first`) and result (`second`) with the interval
    of their difference, and in `record` what `deepwell.json` of the model says.
    """

    id: str
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    method: Literal["prune", "convert", "quantise"]
    options: dict[str, Any]
    model: str
    compressed_model: str | None
    text_file: str | None
    held_out_file: str | None
    progress: dict[str, Any] | None
    result: dict[str, Any] | None
    error: FineTuningError | None
    metadata: dict[str, str] | None


class CompressionJobList(Struct, tag_field="object", tag="list"):
    """A page of compressions."""

    data: list[CompressionJob]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CompressionEvent(Struct, tag_field="object", tag="compression.job.event"):
    """An event of a compression."""

    id: str
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str


class CompressionEventList(Struct, tag_field="object", tag="list"):
    """A page of events, the newest first."""

    data: list[CompressionEvent]
    first_id: str | None
    last_id: str | None
    has_more: bool

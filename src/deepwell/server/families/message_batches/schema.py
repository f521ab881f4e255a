"""The requests of Anthropic's message batches."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deepwell.server.http.schema import Strict, crossed

__all__ = ["MessageBatchRequest", "MessageBatchesQuery"]

MAX_REQUESTS = 100_000  # Anthropic's


class MessageBatchItem(Strict):
    """One request. Its parameters are checked when it is run: what is wrong with them is its result."""

    custom_id: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    params: dict[str, Any] = Field(description="The body of a request to `/v1/messages`.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.params.get("stream"):
            raise crossed("params.stream", "a request of a batch is answered whole: leave stream out")
        return self


class MessageBatchRequest(Strict):
    """Runs requests to `/v1/messages` when there is time."""

    requests: list[MessageBatchItem] = Field(min_length=1, max_length=MAX_REQUESTS)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        seen: set[str] = set()
        for one in self.requests:
            if one.custom_id in seen:
                raise crossed(
                    "requests", f"two requests have the custom_id {one.custom_id!r}: give each its own"
                )
            seen.add(one.custom_id)
        return self


class MessageBatchesQuery(BaseModel):
    """A page of message batches."""

    model_config = ConfigDict(extra="forbid")

    after_id: str | None = Field(None, description="The last id of the page before.")
    before_id: str | None = Field(None, description="The first id of the page behind.")
    limit: int = Field(20, ge=1, le=1000)
    beta: bool = Field(False, description="Accepted: the SDK's `client.beta` sends it. It changes nothing.")

"""The requests of `/v1/batches`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from deepwell.server.families.files.schema import ExpiresAfter
from deepwell.server.http.schema import Metadata, Strict, only_values

__all__ = ["BatchRequest", "BatchesQuery", "batch_request"]


class BatchRequest(Strict):
    """Runs the requests of a file."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


def batch_request(endpoints: tuple[str, ...]) -> type[BatchRequest]:
    """Returns the model of requests for a batch to one of these endpoints."""
    field: Any = (Annotated[Literal[endpoints], only_values("the endpoint", *endpoints)], ...)
    return create_model("BatchRequest", __base__=BatchRequest, __doc__=BatchRequest.__doc__, endpoint=field)


class BatchesQuery(BaseModel):
    """A page of batches."""

    model_config = ConfigDict(extra="forbid")

    after: str | None = Field(None, description="The last id of the page before.")
    limit: int = Field(20, ge=1, le=100)

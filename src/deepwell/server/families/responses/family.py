"""The family of responses."""

from __future__ import annotations

from fastapi import FastAPI

from deepwell.server.background import LeaseKeeper
from deepwell.server.context import ServerContext
from deepwell.server.families.family import Family
from deepwell.server.families.responses.bodies import (
    CompactedResponse,
    InputTokenCount,
    ItemList,
    Response,
    ResponseDeleted,
)
from deepwell.server.families.responses.item_schema import ITEM_TYPES, PART_TYPES
from deepwell.server.families.responses.routes import router
from deepwell.server.families.responses.schema import (
    FORMAT_TYPES,
    INCLUDES,
    CompactRequest,
    InputTokensRequest,
    ResponseRequest,
)
from deepwell.server.families.responses.stored import abandoned
from deepwell.server.families.responses.tool_schema import CHOICE_TYPES, TOOL_TYPES
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]

_RESPONSES = "/v1/responses"
_RESPONSE = "/v1/responses/{response_id}"


class _Leases:
    """The keeper of the leases of one server's background responses, which go on while the server drains."""

    def __init__(self, context: ServerContext, _app: FastAPI) -> None:
        self._context = context
        self._keeper = LeaseKeeper(context.background, context.options.files.job_lease_s, abandoned)

    def start(self) -> None:
        self._keeper.start(lambda: self._context.state, self._context.kept)
        self._context.on_close(self._keeper.stop)

    async def stop(self) -> None:
        """Does nothing yet: the leases are kept until the last run is closed."""


FAMILY = Family(
    Declaration(
        (
            Operation(
                "post",
                _RESPONSES,
                Response,
                streams=True,
                request=ResponseRequest,
                name="chat",
                batches=True,
                example='{"model": "$model", "input": "$text", "max_output_tokens": 40, "temperature": 0}',
            ),
            Operation(
                "post",
                f"{_RESPONSES}/input_tokens",
                InputTokenCount,
                request=InputTokensRequest,
                example='{"model": "$model", "input": "$text"}',
            ),
            Operation(
                "post",
                f"{_RESPONSES}/compact",
                CompactedResponse,
                request=CompactRequest,
                example='{"model": "$model", "input": "$text"}',
            ),
            Operation("get", _RESPONSE, Response, streams=True),
            Operation("delete", _RESPONSE, ResponseDeleted),
            Operation("post", f"{_RESPONSE}/cancel", Response),
            Operation("get", f"{_RESPONSE}/input_items", ItemList),
        ),
        in_one_process=True,  # background responses
        not_served={
            "GET /v1/responses (WebSocket)": "one transport, server-sent events, does the same",
        },
        accepts={
            "POST /v1/responses input[].type": ITEM_TYPES,
            "POST /v1/responses input[].content[].type": PART_TYPES,
            "POST /v1/responses tools[].type": TOOL_TYPES,
            "POST /v1/responses tool_choice.type": CHOICE_TYPES,
            "POST /v1/responses text.format.type": FORMAT_TYPES,
            "POST /v1/responses include[]": INCLUDES,
        },
    ),
    router,
    worker=_Leases,
)

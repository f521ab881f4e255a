"""`/v1/feedback`: what people say of answers."""

from __future__ import annotations

import uuid
from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deepwell.errors import InvalidRequest
from deepwell.server.access.principal import principal_of, tenant_of
from deepwell.server.context import ServerContext
from deepwell.server.families.feedback.bodies import Feedback, FeedbackDeleted, FeedbackList
from deepwell.server.families.feedback.kept import KeptAnswer, kept_answer
from deepwell.server.families.feedback.schema import MAX_MESSAGES_BYTES, FeedbackQuery, FeedbackRequest
from deepwell.server.families.pages import ends_of
from deepwell.server.http.json_route import JsonRoute, json_response
from deepwell.storage.clock import shared_time
from deepwell.storage.database import Tenant
from deepwell.storage.feedback import FeedbackStore, StoredFeedback, voter_of
from deepwell.storage.registry.split import identity_of

__all__ = ["router"]

_encode = msgspec.json.encode


def router(context: ServerContext) -> APIRouter:
    """Returns the routes, bound to `context`."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/v1/feedback", summary="Rate an answer", response_model=None)
    async def create(request: Request, body: FeedbackRequest) -> Response:
        principal, state = principal_of(request), context.state
        sent = _sent_messages(body)
        kept = await kept_answer(state, principal.tenant, body.target_id)
        person = None if kept is None else kept.end_user
        given = StoredFeedback(
            id=f"fb_{uuid.uuid4().hex}",
            target_id=body.target_id,
            rating=body.rating,
            created_at=int(shared_time()),
            reason=body.reason,
            model=body.model if kept is None else kept.model,
            messages=sent if kept is None else _kept_messages(kept, body),
            # Whose conversation it was, even if somebody else rates it: the copy goes with that person. A kept answer that
            # named nobody was split by its key: the rater's name would count it on a side that did not answer.
            end_user=body.safety_identifier if kept is None else person,
            correction=body.correction,
            consent=body.consent,
            verified=kept is not None,
            voter=voter_of(body.safety_identifier or person, principal.key_id),
            key_id=principal.key_id,
        )
        store = FeedbackStore(state.database)
        stored = await store.put(principal.tenant, given, context.options.limits.feedback)
        await _count(context, principal.tenant, given)
        return json_response(_body(stored))

    @routes.get("/v1/feedback", summary="List ratings of answers", response_model=None)
    async def listed(request: Request, query: Annotated[FeedbackQuery, Query()]) -> Response:
        page = await FeedbackStore(context.state.database).list(
            tenant_of(request),
            after=query.after,
            limit=query.limit,
            order=query.order,
            rating=query.rating,
            consent=query.consent,
            target_id=query.target_id,
        )
        data = [_body(one) for one in page.data]
        return json_response(FeedbackList(data, *ends_of(data), page.has_more))

    @routes.delete("/v1/feedback/{feedback_id}", summary="Delete a rating", response_model=None)
    async def delete(request: Request, feedback_id: str) -> Response:
        await FeedbackStore(context.state.database).delete(tenant_of(request), feedback_id)
        return json_response(FeedbackDeleted(feedback_id))

    return routes


async def _count(context: ServerContext, tenant: Tenant, given: StoredFeedback) -> None:
    """Counts a rating of an answer of an alias, on the side that the decision will count it on."""
    meaning = await context.aliases.stored_meaning_of(given.model or "")
    if meaning is None or given.model is None:
        return
    arm = "unknown"
    if given.end_user:
        taken = meaning.models(tenant, identity_of(given.end_user, ""))
        arm = "candidate" if len(taken) > 1 else "current"
    context.metrics.rollouts.voted(given.model, arm, given.rating)


def _sent_messages(body: FeedbackRequest) -> str | None:
    """Returns the conversation that the client sent, as JSON.

    Raises:
        InvalidRequest: it is too long to be kept, or no text.
    """
    if body.messages is None:
        return None
    try:
        data = _encode(body.messages)
    except UnicodeEncodeError:
        raise InvalidRequest(
            "the messages hold half of a surrogate pair, which is no character",
            fix="send whole characters: '\\ud83d\\ude00' and not '\\ud83d'",
            param="messages",
        ) from None
    if len(data) > MAX_MESSAGES_BYTES:
        raise InvalidRequest(
            f"the messages have {len(data)} bytes, more than the {MAX_MESSAGES_BYTES} that are kept with a rating",
            fix="send the last messages alone",
            param="messages",
        )
    return data.decode()


def _kept_messages(kept: KeptAnswer, body: FeedbackRequest) -> str | None:
    """Returns the conversation of a kept answer as JSON, to be used even after that was deleted.

    It is copied if the user consents to its use, or sends it along. One that is longer than clients may send is not copied.
    """
    if kept.messages is None or not (body.consent or body.messages is not None):
        return None
    data = _encode(kept.messages)
    return data.decode() if len(data) <= MAX_MESSAGES_BYTES else None


def _body(given: StoredFeedback) -> Feedback:
    return Feedback(
        id=given.id,
        target_id=given.target_id,
        rating=given.rating,
        reason=given.reason,
        model=given.model,
        created_at=given.created_at,
        correction=given.correction,
        consent=given.consent,
        verified=given.verified,
        messages=msgspec.UNSET if given.messages is None else msgspec.Raw(given.messages.encode()),
    )

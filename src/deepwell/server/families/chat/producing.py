"""Chat requests whose answer may be more than text: the model `auto`, spoken answers, and those that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from deepwell.dialogue.dialogue import Dialogue
from deepwell.errors import InvalidRequest
from deepwell.server.attachments.wording import own_words, transcripts_in
from deepwell.server.context import ServerContext
from deepwell.server.families.chat.schema import ChatRequest
from deepwell.server.guarding.requests import language_of
from deepwell.server.routing.answer import Production, production_of
from deepwell.server.routing.attachments import attached_kinds
from deepwell.server.routing.choice import routed
from deepwell.server.routing.speech import VoiceWish, open_voice

__all__ = ["produced", "recalled"]


def recalled(context: ServerContext, tenant: str, body: ChatRequest, dialogue: Dialogue) -> Dialogue:
    """Returns the dialogue with the texts of spoken answers that the request names by their id.

    Raises:
        InvalidRequest: a text is not kept, and the request does not have it either.
    """
    if not any(message.audio is not None for message in body.messages):
        return dialogue
    messages: list[Mapping[str, Any]] = []
    for number, (message, plain) in enumerate(zip(body.messages, dialogue.messages, strict=True)):
        sent = message.audio
        if sent is None or message.content is not None:
            messages.append(plain)
            continue
        text = context.media.spoken.get(tenant, sent.id)
        text = sent.transcript if text is None else text
        if text is None:
            raise InvalidRequest.of(
                "spoken_answer_gone", id=sent.id[:64], param=f"messages.{number}.audio.id"
            )
        messages.append({**plain, "content": text})
    return replace(dialogue, messages=messages)


async def produced(
    context: ServerContext, tenant: str, body: ChatRequest, dialogue: Dialogue, *, auto: bool
) -> Production | None:
    """Returns what the answer is made of; None if it is nothing but the text of the model that the request names.

    Raises:
        ModelNotFound, MissingDependency: the request asks for a spoken answer, and nothing here speaks.
        InvalidRequest: there is no such voice.
    """
    if not auto and not body.speaks:
        return None
    blocked = False
    if context.guard is not None:
        dialogue, checked = await context.guard.read(dialogue, tenant)
        blocked = checked.blocked
    said = next(
        (str(one.get("content") or "") for one in reversed(dialogue.messages) if one["role"] == "user"), ""
    )
    spoken = None
    if body.audio is not None and body.speaks:
        spoken = await open_voice(context, tenant, body.audio.wish())
    if not auto:
        return Production(context, tenant, language_of(said), voice=spoken)
    last = next((one for one in reversed(body.messages) if one.role == "user"), None)
    recordings: list[str] = []
    if attached_kinds(last):
        said, recordings = own_words(said), transcripts_in(said)
    choice = await routed(context, said, attached_kinds(last))
    if blocked:  # the model's place is taken by a refusal
        return Production(context, tenant, choice.language, choice, voice=spoken)
    default = VoiceWish(format="pcm16") if body.stream else VoiceWish()
    wish = default if body.audio is None else body.audio.wish()
    made = await production_of(context, tenant, choice, said, wish=wish, recordings=recordings)
    return made if spoken is None or made.voice is not None else replace(made, voice=spoken)

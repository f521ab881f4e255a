"""`MediaAnswer`: an answer of chat that has more than text: a picture, speech, or remarks of the server's own."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from deepwell.dialogue.completion import Counts
from deepwell.dialogue.dialogue import ParsedOutput, Turn
from deepwell.dialogue.parsers.events import CallArguments, CallStart, Content, Reasoning
from deepwell.media.images.encode import MEDIA_TYPES
from deepwell.server.families.chat.bodies import (
    AudioChunk,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    FunctionDelta,
    ImageUrl,
    Message,
    MessageAudio,
    MessageImage,
    ToolCallDelta,
)
from deepwell.server.families.chat.message import message_of
from deepwell.server.families.generation_bodies import usage
from deepwell.server.http.sse import event
from deepwell.server.routing.answer import Part, Production, Remark
from deepwell.server.routing.bodies import route_of
from deepwell.server.routing.pictures import Picture
from deepwell.server.routing.speech import SoundPiece
from deepwell.storage.clock import shared_time

__all__ = ["MediaAnswer"]

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Collected:
    """The parts of an answer so far."""

    remarks: list[str] = field(default_factory=list[str])
    said: ParsedOutput = field(default_factory=ParsedOutput)
    images: list[MessageImage] = field(default_factory=list[MessageImage])
    sound: list[bytes] = field(default_factory=list[bytes])
    last: Turn | None = None

    def add(self, part: Part) -> None:
        match part:
            case Remark(text):
                self.remarks.append(text)
            case Picture():
                self.images.append(_image(part))
            case SoundPiece(data):
                self.sound.append(data)
            case Turn():
                self.said.add(part.events)
                self.last = part


class MediaAnswer:
    """One response, as events or as a whole.

    Args:
        id: id of the completion.
        model: name of the model that answers in text.
        fingerprint: of that model.
        turns: its answer, which is not begun unless it is asked.

    Attributes:
        keep: gets the whole before the last event is sent.
    """

    keep: Callable[[ChatCompletion], Awaitable[None]] | None = None

    def __init__(
        self,
        production: Production,
        id: str,
        model: str,
        fingerprint: str,
        turns: AsyncGenerator[Turn, None],
    ) -> None:
        self._production = production
        self._id = id
        self._model = model
        self._fingerprint = fingerprint
        self._turns = turns
        self._created = int(shared_time())
        self._audio_id = f"audio_{uuid.uuid4().hex}"

    async def whole(self) -> bytes:
        """Returns the body of the answer."""
        collected = _Collected()
        async with aclosing(self._production.parts(self._turns, streams=False)) as parts:
            async for part in parts:
                collected.add(part)
        completion = self._completion(collected)
        if self.keep is not None:
            await self.keep(completion)
        return _encode(completion)

    async def events(self, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Yields the events of the stream."""
        blank = None if include_usage else msgspec.UNSET
        route = route_of(self._production, self._model)
        collected = _Collected()

        def chunk(delta: ChatDelta, **more: Any) -> bytes:
            choice = ChatChunkChoice(0, delta, **more)
            made = ChatChunk(self._id, self._created, self._model, self._fingerprint, [choice], blank)
            return event(_encode(made))

        first = ChatChunkChoice(0, ChatDelta(content="", role="assistant", refusal=None))
        head = ChatChunk(self._id, self._created, self._model, self._fingerprint, [first], blank, route=route)
        yield event(_encode(head))
        if self._production.voice is not None:
            yield chunk(ChatDelta(audio=AudioChunk(id=self._audio_id)))
        async with aclosing(self._production.parts(self._turns, streams=True)) as parts:
            async for part in parts:
                collected.add(part)
                chunks = [chunk(delta) for delta in self._deltas(part, collected)]
                if chunks:
                    yield b"".join(chunks)
        completion = self._completion(collected)
        if self.keep is not None:
            await self.keep(completion)
        audio = completion.choices[0].message.audio
        if isinstance(audio, MessageAudio):
            yield chunk(ChatDelta(audio=AudioChunk(id=audio.id, expires_at=audio.expires_at)))
        # The models that have drawn and spoken are known now.
        end = ChatChunkChoice(0, ChatDelta(), None, completion.choices[0].finish_reason)
        last = ChatChunk(
            self._id, self._created, self._model, self._fingerprint, [end], blank, route=completion.route
        )
        yield event(_encode(last))
        if include_usage:
            total = ChatChunk(self._id, self._created, self._model, self._fingerprint, [], completion.usage)
            yield event(_encode(total))

    def _deltas(self, part: Part, collected: _Collected) -> list[ChatDelta]:
        match part:
            case Remark(text):
                gap = "\n\n" if len(collected.remarks) > 1 else ""
                return [ChatDelta(content=gap + text)]
            case Picture():
                return [ChatDelta(images=[collected.images[-1]])]
            case SoundPiece(data):
                sound = base64.b64encode(data).decode()
                return [ChatDelta(audio=AudioChunk(id=self._audio_id, data=sound))]
            case Turn():
                return [self._delta(one, collected) for one in part.events]

    def _delta(
        self, one: Content | Reasoning | CallStart | CallArguments, collected: _Collected
    ) -> ChatDelta:
        match one:
            case Content(text) if self._production.voice is not None:
                return ChatDelta(audio=AudioChunk(id=self._audio_id, transcript=text))
            case Content(text):
                begins = bool(collected.remarks) and collected.said.content == text
                return ChatDelta(content=f"\n\n{text}" if begins else text)
            case Reasoning(text):
                return ChatDelta(reasoning_content=text)
            case CallStart(index, name):
                call = ToolCallDelta(
                    index, FunctionDelta("", name), collected.said.calls[index].id, "function"
                )
                return ChatDelta(tool_calls=[call])
            case CallArguments(index, text):
                return ChatDelta(tool_calls=[ToolCallDelta(index, FunctionDelta(text))])

    def _completion(self, collected: _Collected) -> ChatCompletion:
        last = collected.last
        counts = Counts() if last is None else last.counts
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[ChatChoice(0, self._message(collected), (last and last.finish_reason) or "stop")],
            usage=usage([counts], 1, None if last is None else last.ledger),
            system_fingerprint=self._fingerprint,
            route=route_of(self._production, self._model),
        )

    def _message(self, collected: _Collected) -> Message:
        message = message_of(collected.said)
        voice = self._production.voice
        text = collected.said.content
        if voice is not None:
            message.content = None
            # Calls alone are not spoken.
            if text or not collected.said.calls:
                spoken = self._production.context.media.spoken
                expires = spoken.keep(self._production.tenant, self._audio_id, text)
                data = base64.b64encode(b"".join(collected.sound)).decode()
                message.audio = MessageAudio(self._audio_id, data, expires, text, voice.wish.format)
        told = [*collected.remarks, *([message.content] if message.content else [])]
        if collected.remarks:
            message.content = "\n\n".join(told)
        if collected.images:
            message.images = collected.images
        return message


def _image(picture: Picture) -> MessageImage:
    return MessageImage(ImageUrl(f"data:{MEDIA_TYPES[picture.format]};base64,{picture.data}"))

"""`Production`: what an answer is made of besides the model's text, and its parts in their order."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepwell.dialogue.dialogue import Dialogue, Turn
from deepwell.dialogue.parsers.events import Content
from deepwell.errors import DeepwellError
from deepwell.messages import Language, render
from deepwell.server.context import ServerContext
from deepwell.server.routing.choice import Routed
from deepwell.server.routing.pictures import Picture, PictureWish, pictures
from deepwell.server.routing.speech import SoundPiece, Voice, VoiceWish, open_voice, voiced
from deepwell.server.routing.wording import spoken_words, subject_of

__all__ = ["Part", "Production", "Remark", "production_of", "said_of"]


@dataclass(frozen=True, slots=True)
class Remark:
    """A sentence of the server's own, which is never spoken."""

    text: str


Part = Turn | Remark | Picture | SoundPiece
"""A part of an answer."""


@dataclass(frozen=True, slots=True)
class Production:
    """The parts of which an answer is to be made.

    Attributes:
        language: language of the request.
        routed: the choice of the model `auto`; None: the request named its model.
        prompt: prompt of the picture; empty: there is none.
        words: words of the request that are spoken or told as they are; empty: the model answers.
        asks_model: whether the model answers.
        voice: the voice of the answer; None: it is not spoken.
        remarks: what is said first.
        models: names of the models by what they do. Those of pictures are added when they have drawn.
    """

    context: ServerContext
    tenant: str
    language: Language
    routed: Routed | None = None
    prompt: str = ""
    words: str = ""
    asks_model: bool = True
    voice: Voice | None = None
    remarks: tuple[str, ...] = ()
    models: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def is_plain(self) -> bool:
        """Tells whether the answer is nothing but the model's text."""
        return self.asks_model and not (self.prompt or self.words or self.voice or self.remarks)

    def asked(self, dialogue: Dialogue) -> Dialogue:
        """Returns the dialogue as the model gets it: of a picture that is drawn beside its answer it is told, in its last user
        turn. Without that, small models write a program that draws, or say that they cannot."""
        if not (self.prompt and self.asks_model):
            return dialogue
        messages = [dict(one) for one in dialogue.messages]
        last = next((one for one in reversed(messages) if one["role"] == "user"), None)
        if last is None or not isinstance(last.get("content"), str):
            return dialogue
        last["content"] += f"\n\n{render('auto_rest', self.language, {'prompt': self.prompt})[0]}"
        return replace(dialogue, messages=messages)

    async def parts(self, turns: AsyncGenerator[Turn, None], *, streams: bool) -> AsyncGenerator[Part, None]:
        """Yields the parts: remarks, the picture, and the text with its sound.

        Args:
            turns: the model's answer, which is not begun unless the model is asked.
            streams: whether sound is to come sentence by sentence; else it is one file at the end.
        """
        for remark in self.remarks:
            yield Remark(remark)
        if self.prompt:
            async with aclosing(self._pictures()) as found:
                async for part in found:
                    yield part
        source = self._turns(turns)
        if self.voice is None:
            async with aclosing(source):
                async for turn in source:
                    yield turn
        elif streams:
            async with aclosing(voiced(self.voice, source)) as both:
                async for part in both:
                    yield part
        else:
            said = ""
            async with aclosing(source):
                async for turn in source:
                    said += "".join(one.text for one in turn.events if isinstance(one, Content))
                    yield turn
            async with aclosing(self.voice.sound(said)) as sound:
                async for data in sound:
                    yield SoundPiece(data)

    async def _turns(self, turns: AsyncGenerator[Turn, None]) -> AsyncGenerator[Turn, None]:
        if self.words:
            yield Turn(0, (Content(self.words),))
        if not self.asks_model:
            yield Turn(0, (), finish_reason="stop")
            return
        async with aclosing(turns):
            first = True
            async for turn in turns:
                if self.words and first and any(isinstance(one, Content) for one in turn.events):
                    turn, first = replace(turn, events=(Content("\n\n"), *turn.events)), False
                yield turn

    async def _pictures(self) -> AsyncGenerator[Part, None]:
        """Yields the picture and a sentence about it; what keeps it from being drawn is said instead."""
        try:
            async with aclosing(pictures(self.context, self.tenant, self.prompt, PictureWish())) as found:
                async for one in found:
                    self.models["image"] = one.model
                    yield Remark(render("auto_picture", self.language, {"prompt": one.prompt})[0])
                    yield one
        except DeepwellError as error:
            yield Remark(said_of(error, self.language))


async def production_of(
    context: ServerContext,
    tenant: str,
    routed: Routed,
    text: str,
    *,
    wish: VoiceWish | None,
    recordings: Sequence[str] = (),
) -> Production:
    """Returns what an answer to a request for the model `auto` is made of. What is missing becomes a remark.

    Args:
        text: the last user turn, as the guard let it pass.
        wish: the voice of an answer that is spoken; None: the request's interface carries no sound.
        recordings: transcripts of what is attached.
    """
    intents, language = routed.intents, routed.language
    remarks: list[str] = []
    models: dict[str, str] = {}
    voice: Voice | None = None
    words = ""
    asks_model = "chat" in intents
    if "transcription" in intents:
        words = "\n\n".join(recordings)
        if recordings:
            models["transcription"] = Path(context.options.recognition.model).name
        else:
            remarks.append(render("auto_no_recording", language, {})[0])
    if "speech" in intents:
        handed = spoken_words(text)
        words = "\n\n".join(filter(None, (words, handed)))
        asks_model = asks_model or not words
        if wish is None:
            remarks.append(render("auto_no_sound", language, {})[0])
        else:
            try:
                voice = await open_voice(context, tenant, wish)
                models["speech"] = voice.model
            except DeepwellError as error:
                if error.param == "audio.voice":
                    raise
                remarks.append(said_of(error, language))
    prompt = subject_of(text) if "image" in intents else ""
    return Production(
        context, tenant, language, routed, prompt, words, asks_model, voice, tuple(remarks), models
    )


def said_of(error: DeepwellError, language: Language) -> str:
    """Returns what an error says, with its fix, as a sentence of an answer."""
    message, fix = error.said(language)
    text = f"{message}{'：' if language == 'zh' else ': '}{fix}" if fix else message
    return f"{text[:1].upper()}{text[1:]}"

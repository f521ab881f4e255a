"""`SpaceEmbedding`: texts, pictures and sounds of one request become vectors of the space, each alone or several fused."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Final

import numpy as np
from msgspec import UNSET

from deepwell.errors import ContextLengthExceeded, DeepwellError, InvalidRequest
from deepwell.server.access.ticket import current_ticket
from deepwell.server.context import SPACE_MODEL, ServerContext
from deepwell.server.embedding import MAX_TOKENS, shortened
from deepwell.server.families.embeddings.bodies import Embedding, EmbeddingList, EmbeddingUsage, packed
from deepwell.server.families.embeddings.part_schema import (
    ImagePart,
    Input,
    SoundPart,
    TextPart,
    image_bytes,
    sound_bytes,
)
from deepwell.server.families.embeddings.schema import EmbeddingRequest
from deepwell.server.observe.generation import embedding
from deepwell.server.observe.record import Phase, current

if TYPE_CHECKING:
    from deepwell.knowledge.models import LLMEmbedder
    from deepwell.media.space.fusion import Fusion, Modality, Sensed
    from deepwell.media.space.process import Seen

__all__ = ["SpaceEmbedding"]

_DIMENSIONS: Final = 384


@dataclass(frozen=True, slots=True)
class _Sent:
    """A part of an input.

    Attributes:
        input: number of its input.
        content: the text, or the bytes of the picture or sound.
    """

    input: int
    kind: Modality
    content: str | bytes


class SpaceEmbedding:
    """The model `deepwell-space` of one process."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def embed(self, body: EmbeddingRequest, tenant: str) -> EmbeddingList:
        """Returns the answer to a request.

        Raises:
            InvalidRequest: a part cannot be read, or there are parts that do not go together.
            ImageRefused: the safety model takes a picture for unsafe.
            ModelNotFound, MissingDependency: what a part needs is not here; the fix is the command that brings it.
        """
        _check(body)
        sent = await asyncio.to_thread(_sent, body.input)
        encoder, tokens = None, 0
        if any(one.kind == "text" for one in sent):
            encoder, tokens = await self._encoder(sent)
        with embedding(self._context.metrics, SPACE_MODEL, tokens):
            found, seconds = await self._sensed(sent, encoder, tenant)
        data = await asyncio.to_thread(self._data, body, sent, found)
        images = sum(one.kind == "image" for one in sent)
        usage = EmbeddingUsage(tokens, tokens, images or UNSET, round(seconds, 3) if seconds else UNSET)
        return EmbeddingList(data, body.model, usage)

    async def _encoder(self, sent: Sequence[_Sent]) -> tuple[LLMEmbedder, int]:
        """Returns the encoder of texts, and the number of tokens of all, which are charged.

        Raises:
            ContextLengthExceeded: a text has more tokens than the encoder reads at once.
            InvalidRequest: all have too many together.
        """
        from deepwell.media.space.weights import SpaceConfig

        encoder = await self._context.knowledge.embedders.named(SpaceConfig().text_encoder)
        texts = [(one.input, one.content) for one in sent if isinstance(one.content, str)]
        counts = await asyncio.to_thread(encoder.count, [text for _, text in texts])
        for (number, _), count in zip(texts, counts, strict=True):
            if count > encoder.max_tokens:
                raise ContextLengthExceeded(
                    f"this model's maximum context length is {encoder.max_tokens} tokens, but input {number} has {count}",
                    fix="split it",
                    param="input",
                )
        total = sum(counts)
        if total > MAX_TOKENS:
            raise InvalidRequest(
                f"the inputs have {total} tokens together, and {MAX_TOKENS} are allowed",
                fix="send fewer inputs in a request",
                param="input",
            )
        if (ticket := current_ticket()) is not None and ticket.quota is not None:
            await ticket.quota.reserve(total)
        return encoder, total

    async def _sensed(
        self, sent: Sequence[_Sent], encoder: LLMEmbedder | None, tenant: str
    ) -> tuple[list[Sensed], float]:
        """Returns the vectors of all parts, in their order, and the seconds of the sounds."""
        from deepwell.media.space.fusion import SIGNS, Sensed
        from deepwell.media.space.heads import unit
        from deepwell.media.space.weights import SHIPPED, SpaceConfig, SpaceWeights

        begin, seconds = perf_counter(), 0.0
        texts = [one.content for one in sent if isinstance(one.content, str)]
        vectors = iter(())
        if encoder is not None:
            prefix = SpaceConfig().prefix
            whole = await encoder.embed([prefix + text for text in texts], "plain")
            vectors = iter(unit(whole - await asyncio.to_thread(SpaceWeights.centre_of, SHIPPED)))
        found: list[Sensed] = []
        for one in sent:
            if isinstance(one.content, str):
                found.append(Sensed(next(vectors), np.zeros(SIGNS, np.float32)))
                continue
            try:
                if one.kind == "image":
                    seen = await self._look(one.content, tenant)
                    found.append(Sensed(seen.vector, seen.signs))
                else:
                    heard = await (await self._context.space.sensing()).hear(tenant, one.content)
                    found.append(Sensed(heard.vector, heard.signs))
                    seconds += heard.seconds
            except DeepwellError as error:
                error.param = f"input[{one.input}]"
                raise
        if (record := current()) is not None:
            media = len(sent) - len(texts)
            attributes = {"space.texts": len(texts), "space.media": media}
            record.phases.append(Phase("embed_space", begin, perf_counter(), attributes))
        return found, seconds

    async def _look(self, data: bytes, tenant: str) -> Seen:
        from deepwell.media.images.process import ImageRefused

        context = self._context
        try:
            return await context.space.look(tenant, data)
        except ImageRefused as error:
            context.metrics.images.refused.labels(SPACE_MODEL, "sent").inc()
            if context.guard is not None:
                await context.guard.refused_image("input", error.score, "", tenant)
            raise

    @cached_property
    def _fusion(self) -> Fusion:
        from deepwell.media.space.fusion import Fusion
        from deepwell.media.space.weights import SHIPPED, SpaceWeights

        return Fusion(SpaceWeights.read(SHIPPED).part("fusion"))

    def _data(
        self, body: EmbeddingRequest, sent: Sequence[_Sent], found: Sequence[Sensed]
    ) -> list[Embedding]:
        data: list[Embedding] = []
        for number, one in enumerate(body.input):
            mine: dict[Modality, Sensed] = {
                part.kind: sensed for part, sensed in zip(sent, found, strict=True) if part.input == number
            }
            gates = UNSET
            if _is_list(one):
                fused = self._fusion(mine)
                vector, gates = fused.vector, {name: round(gate, 4) for name, gate in fused.gates.items()}
            else:
                (only,) = mine.values()
                vector = only.vector
            data.append(
                Embedding(number, packed(shortened(vector, body.dimensions), body.encoding_format), gates)
            )
        return data


def _check(body: EmbeddingRequest) -> None:
    if body.dimensions is not None and body.dimensions > _DIMENSIONS:
        raise InvalidRequest(
            f"the model's vectors have {_DIMENSIONS} dimensions, {body.dimensions} were asked for",
            fix=f"ask for dimensions from 1 to {_DIMENSIONS}",
            param="dimensions",
        )


def _is_list(one: Input) -> bool:
    return isinstance(one, list)


def _sent(inputs: Sequence[Input]) -> list[_Sent]:
    """Returns the parts of all inputs, decoded.

    Raises:
        InvalidRequest: an input is token ids or has two parts of a kind, or what a part holds cannot be decoded.
    """
    found: list[_Sent] = []
    for number, one in enumerate(inputs):
        parts = one if isinstance(one, list) else [one]
        kinds: set[Modality] = set()
        for part in parts:
            if isinstance(part, int):
                raise InvalidRequest.of("embedding_space_tokens", param=f"input[{number}]")
            sent = _part(number, part)
            if sent.kind in kinds:
                raise InvalidRequest.of("embedding_space_twice", kind=sent.kind, param=f"input[{number}]")
            kinds.add(sent.kind)
            found.append(sent)
    return found


def _part(number: int, part: str | TextPart | ImagePart | SoundPart) -> _Sent:
    if isinstance(part, str):
        return _Sent(number, "text", part)
    if isinstance(part, TextPart):
        return _Sent(number, "text", part.text)
    try:
        if isinstance(part, ImagePart):
            return _Sent(number, "image", image_bytes(part))
        return _Sent(number, "sound", sound_bytes(part))
    except InvalidRequest as error:
        error.param = f"input[{number}]"
        raise

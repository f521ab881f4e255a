"""`Attachments`: the attachments of one server's conversations as text.

A conversation is sent back each turn. The facts about each file are kept, by tenant and hash, so that the work is done once and
the text stays the same, which lets the prefix cache find it. What an address of the web had is kept in the same way.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Literal

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.context.fitting.ledger import LedgerPart
from deepwell.messages import Language
from deepwell.server.access.ticket import current_ticket
from deepwell.server.attachments.fetch import fetch
from deepwell.server.attachments.reading import AttachmentReader, kind_in
from deepwell.server.attachments.schema import Attached, Attachment, Kind
from deepwell.server.attachments.wording import FileFacts, ImageFacts, SoundFacts, described
from deepwell.server.context import ServerContext
from deepwell.server.guarding.requests import language_of
from deepwell.server.observe.record import Phase, current
from deepwell.storage.database import Tenant

__all__ = ["MOST_BYTES", "MOST_CHARACTERS", "MOST_PARTS", "Attachments", "Given", "Told", "attachments_of"]

MOST_PARTS: Final = 32
"""Attachments of one request."""

MOST_BYTES: Final = 25 << 20
"""Bytes of one attachment: those of OpenAI's recordings."""

MOST_CHARACTERS: Final = 1 << 21
"""Characters of text that come out of the attachments of one request."""

_MOST_TOTAL: Final = 4 * MOST_BYTES
_COUNTED: Final = (
    1 << 15
)  # characters whose tokens are counted at once: the tokenizer lets nothing else run meanwhile
_MOST_TENANTS: Final = 64
_MOST_KEPT: Final = 256
_MOST_KEPT_BYTES: Final = 8 << 20

Facts = ImageFacts | SoundFacts | FileFacts
_KINDS: Final[dict[type[Facts], Literal["image description", "transcript", "document"]]] = {
    ImageFacts: "image description",
    SoundFacts: "transcript",
    FileFacts: "document",
}

_ATTACHED: Final[dict[type[Facts], Literal["image", "audio", "file"]]] = {
    ImageFacts: "image",
    SoundFacts: "audio",
    FileFacts: "file",
}


@dataclass(frozen=True, slots=True)
class Given:
    """A message with attachments.

    Attributes:
        parts: texts and attachments in their order.
        param: the parameter of the request that has the parts, such as `messages[0].content`.
    """

    parts: Sequence[str | Attachment]
    param: str


@dataclass(frozen=True, slots=True)
class Told:
    """Messages as text.

    Attributes:
        pieces: one a part of each message; what stands in place of attachments is marked.
        parts: the texts in place of attachments, for the ledger.
        attached: the attachments of each message.
    """

    pieces: list[list[str]]
    parts: tuple[LedgerPart, ...]
    attached: list[list[Attached]]

    @property
    def texts(self) -> list[str]:
        """Each message as one text."""
        return ["\n\n".join(piece for piece in pieces if piece) for pieces in self.pieces]


_Key = tuple[str, Kind, tuple[bool, bool]]
"""Hash and kind of a file, and whether the encoder of images and the safety model were here when it was read."""


class _Kept:
    """Facts of one tenant's files, those that were needed longest ago leaving first."""

    def __init__(self) -> None:
        self.hashes: OrderedDict[str, str] = OrderedDict()
        self._facts: OrderedDict[_Key, Facts] = OrderedDict()
        self._bytes = 0

    def get(self, key: _Key) -> Facts | None:
        if key in self._facts:
            self._facts.move_to_end(key)
        return self._facts.get(key)

    def put(self, key: _Key, facts: Facts) -> None:
        if (before := self._facts.pop(key, None)) is not None:
            self._bytes -= before.bytes
        self._facts[key] = facts
        self._bytes += facts.bytes
        while len(self._facts) > 1 and (len(self._facts) > _MOST_KEPT or self._bytes > _MOST_KEPT_BYTES):
            self._bytes -= self._facts.popitem(last=False)[1].bytes

    def name(self, address: str, digest: str) -> None:
        self.hashes[address] = digest
        self.hashes.move_to_end(address)
        while len(self.hashes) > _MOST_KEPT:
            self.hashes.popitem(last=False)


class Attachments:
    """The attachments of one server. It belongs to one event loop."""

    def __init__(self, context: ServerContext, reader: AttachmentReader | None = None) -> None:
        self._context = context
        self._reader = reader or AttachmentReader(context)
        self._kept: OrderedDict[Tenant, _Kept] = OrderedDict()
        context.on_erasure(self._forget)

    async def told(self, messages: Sequence[Given], tenant: Tenant, count: Callable[[str], int]) -> Told:
        """Returns messages as text.

        Args:
            count: returns the number of tokens of a text.

        Raises:
            InvalidRequest: there are too many attachments, too much text is in them, or one cannot be read; `param` names it.
            NotFound: the tenant has no file of an id.
            ImageRefused: the safety model takes an image for unsafe.
            ModelNotFound, MissingDependency: the programs that would read it are not here; the fix is a command.
        """
        number = sum(isinstance(part, Attachment) for one in messages for part in one.parts)
        if number > MOST_PARTS:
            raise InvalidRequest.of("attachment_count", most=MOST_PARTS, param=messages[0].param)
        told: list[list[str]] = []
        attached: list[list[Attached]] = []
        rows: list[tuple[type[Facts], str]] = []
        left, room = _MOST_TOTAL, MOST_CHARACTERS
        for one in messages:
            said = "\n".join(part for part in one.parts if isinstance(part, str))
            pieces: list[str] = []
            mine: list[Attached] = []
            numbers = {ImageFacts: 0, SoundFacts: 0, FileFacts: 0}
            for place, part in enumerate(one.parts):
                if isinstance(part, str):
                    pieces.append(part)
                    continue
                facts, size = await self._facts(part, tenant, f"{one.param}[{place}]", left)
                left -= size
                room -= _check_length(facts, room, f"{one.param}[{place}]")
                numbers[type(facts)] += 1
                language = _language(said, facts)
                number = numbers[type(facts)]
                text = await asyncio.to_thread(described, facts, language, number, part.name)
                pieces.append(text)
                rows.append((type(facts), text))
                mine.append(Attached(_ATTACHED[type(facts)]))
            told.append(pieces)
            attached.append(mine)
        tokens = await asyncio.to_thread(lambda: [_counted(text, count) for _, text in rows])
        parts = [LedgerPart(_KINDS[kind], size) for (kind, _), size in zip(rows, tokens, strict=True)]
        return Told(told, tuple(parts), attached)

    async def _facts(self, part: Attachment, tenant: Tenant, param: str, left: int) -> tuple[Facts, int]:
        """Returns the facts about an attachment, and the bytes that were read for it."""
        metrics = self._context.metrics.attachments
        try:
            kept = self._of(tenant)
            data = b""
            address = part.url if part.url is not None and not part.url.startswith("data:") else None
            if address is not None and (ticket := current_ticket()) is not None:
                ticket.replayable = False  # the address may have something else later
            digest = kept.hashes.get(address or "", "")
            if not digest:
                data = await self._bytes(part, tenant, param, min(left, MOST_BYTES))
                digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
            key = (digest, part.kind, await self._sees())
            facts = kept.get(key)
            if facts is not None:
                metrics.read.labels(part.kind, "remembered").inc()
                return facts, len(data)
            if not data:
                data = await self._bytes(part, tenant, param, min(left, MOST_BYTES))
                key = (await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest()), part.kind, key[2])
            facts = await self._read(part, data, tenant)
            _check_length(facts, MOST_CHARACTERS, param)
            kept.put(key, facts)
            if address is not None:
                kept.name(address, key[0])
            metrics.read.labels(part.kind, "made").inc()
            return facts, len(data)
        except DeepwellError as error:
            metrics.read.labels(part.kind, "failed").inc()
            error.param = param
            raise

    async def _read(self, part: Attachment, data: bytes, tenant: Tenant) -> Facts:
        begin = perf_counter()
        kind = kind_in(data) if part.kind == "file" else part.kind
        if kind == "image":
            facts: Facts = await self._reader.image(data, tenant)
        elif kind == "sound":
            facts = await self._reader.sound(data, tenant)
        else:
            facts = await self._reader.file(data, part.name, tenant)
        end = perf_counter()
        self._context.metrics.attachments.seconds.labels(part.kind).observe(end - begin)
        if (record := current()) is not None:
            record.phases.append(Phase("attachment", begin, end, {"deepwell.attachment.kind": kind}))
        return facts

    async def _bytes(self, part: Attachment, tenant: Tenant, param: str, most: int) -> bytes:
        """Returns the bytes of an attachment, at most `most`."""
        if part.file_id is not None:
            return await self._file(part.file_id, tenant, most, param)
        if part.data is not None:
            return await asyncio.to_thread(_decoded, part.data, most, param)
        url = part.url or ""
        if url.startswith("data:"):
            head, comma, data = url.partition(",")
            if not comma or not head.endswith(";base64"):
                raise InvalidRequest.of("attachment_base64", param=param)
            return await asyncio.to_thread(_decoded, data, most, param)
        if not url.lower().startswith(("http://", "https://")):
            raise InvalidRequest.of("attachment_address", param=param)
        return await fetch(url, most, self._context.options.knowledge.hosts, param)

    async def _file(self, id: str, tenant: Tenant, most: int, param: str) -> bytes:
        store = self._context.state.files
        if (await store.get(tenant, id)).bytes > most:
            raise InvalidRequest.of("attachment_large", megabytes=MOST_BYTES >> 20, param=param)
        path = await store.path(tenant, id)
        return await asyncio.to_thread(path.read_bytes)

    async def _sees(self) -> tuple[bool, bool]:
        """Returns whether the encoder of images and the safety model are here. With one that comes, facts are made anew."""
        from deepwell.media.images.options import SAFETY_NAME
        from deepwell.media.space.options import encoder_file

        folder = self._context.options.images.models_dir
        if folder is None:
            return False, False
        encoder, safety = encoder_file(folder), folder / SAFETY_NAME
        return await asyncio.to_thread(lambda: (encoder.is_file(), safety.is_dir()))

    def _of(self, tenant: Tenant) -> _Kept:
        kept = self._kept.pop(tenant, None) or _Kept()
        self._kept[tenant] = kept
        while len(self._kept) > _MOST_TENANTS:
            self._kept.popitem(last=False)
        return kept

    async def _forget(self) -> None:
        self._kept.clear()


def attachments_of(context: ServerContext) -> Attachments:
    """Returns the attachments of a server, for `ServerContext.shared`."""
    return Attachments(context)


def _language(said: str, facts: Facts) -> Language:
    text = said.strip() or ("" if isinstance(facts, ImageFacts) else facts.text)
    return language_of(text)


def _check_length(facts: Facts, most: int, param: str) -> int:
    """Returns the number of characters of the text in an attachment, at most `most`."""
    length = len(facts.text or "")
    if length > most:
        raise InvalidRequest.of("attachment_long", most=MOST_CHARACTERS, param=param)
    return length


def _counted(text: str, count: Callable[[str], int]) -> int:
    """Returns the number of tokens of a text. A long one is counted in pieces, which end with a line if they can."""
    total = place = 0
    while place < len(text):
        cut = place + _COUNTED
        if cut < len(text):
            cut = text.rfind("\n", place, cut) + 1 or cut
        total, place = total + count(text[place:cut]), cut
    return total


def _decoded(text: str, most: int, param: str) -> bytes:
    if len(text) * 3 // 4 > most + 3:
        raise InvalidRequest.of("attachment_large", megabytes=MOST_BYTES >> 20, param=param)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest.of("attachment_base64", param=param) from None
    if not data:
        raise InvalidRequest.of("attachment_base64", param=param)
    return data

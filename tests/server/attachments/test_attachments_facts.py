"""Facts of attachments: how much text there may be, how its tokens are counted, and when it is found anew."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from tests.server.fakes import FakeEngine, make_service

from deepwell.dialogue.text import Codec
from deepwell.errors import InvalidRequest
from deepwell.server.attachments.attachments import MOST_CHARACTERS, Attachments, Given
from deepwell.server.attachments.reading import AttachmentReader
from deepwell.server.attachments.schema import Attachment
from deepwell.server.attachments.wording import FileFacts
from deepwell.server.options import ImageServing
from deepwell.storage.database import LOCAL

LINE = "a line of text\n"


class Reader(AttachmentReader):
    """Reads every file as lines of the number of characters that is its content."""

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.read = 0

    async def file(self, data: bytes, name: str, tenant: str) -> FileFacts:
        self.read += 1
        return FileFacts((LINE * (int(data) // len(LINE) + 1))[: int(data)])


def of(*characters: int) -> list[Given]:
    parts = [
        Attachment("file", data=base64.b64encode(str(number).encode()).decode()) for number in characters
    ]
    return [Given(parts, "messages[0].content")]


async def test_more_text_than_a_request_may_have_is_refused_and_not_kept(codec: Codec) -> None:
    context = make_service(FakeEngine(), codec, model="toy")
    reader = Reader(context)
    attachments = Attachments(context, reader)
    half = MOST_CHARACTERS // 2
    for characters, place in (((MOST_CHARACTERS + 1,), 0), ((half, half, 1), 2)):
        with pytest.raises(InvalidRequest, match=f"more text than {MOST_CHARACTERS} characters") as raised:
            await attachments.told(of(*characters), LOCAL, len)
        assert raised.value.param == f"messages[0].content[{place}]"
    assert reader.read == 3
    with pytest.raises(InvalidRequest):
        await attachments.told(of(MOST_CHARACTERS + 1), LOCAL, len)
    assert reader.read == 4
    await context.close_state()


async def test_long_texts_are_counted_in_pieces_that_end_with_a_line(codec: Codec) -> None:
    context = make_service(FakeEngine(), codec, model="toy")
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return text.count("line")

    told = await Attachments(context, Reader(context)).told(of(300_000), LOCAL, count)
    assert "".join(counted) == told.texts[0] and max(map(len, counted)) <= 1 << 15
    assert all(piece.endswith("\n") for piece in counted[:-1])
    assert told.parts[0].tokens == 20_000
    await context.close_state()


async def test_what_was_found_without_the_safety_model_is_found_anew_with_it(
    codec: Codec, tmp_path: Path
) -> None:
    context = make_service(FakeEngine(), codec, model="toy", images=ImageServing(models_dir=tmp_path))
    reader = Reader(context)
    attachments = Attachments(context, reader)
    for count in (1, 1):
        await attachments.told(of(10), LOCAL, len)
        assert reader.read == count
    (tmp_path / "opennsfw").mkdir()
    for count in (2, 2):
        await attachments.told(of(10), LOCAL, len)
        assert reader.read == count
    await context.close_state()

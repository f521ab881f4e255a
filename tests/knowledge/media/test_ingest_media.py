"""Pictures and recordings on their way into a store: what is kept of them, how they are found, and what a failure says."""

import asyncio

import msgspec
import numpy as np
import pytest
from tests.knowledge.test_ingest import House

from deepwell.errors import InvalidFile, MissingDependency, ModelNotFound
from deepwell.knowledge.chunk import place_text
from deepwell.knowledge.documents import Document, MediaPlace, Place, Section
from deepwell.knowledge.ingest import ChunkingStrategy, Ingestor
from deepwell.knowledge.media.reading import MediaReader
from deepwell.knowledge.media.senses import Look, TranscriptSegment
from deepwell.knowledge.search import Searcher
from deepwell.storage.database import LOCAL
from deepwell.storage.jobs.runner import JobRun
from deepwell.storage.knowledge.files import INGEST_JOB, Attachment

PNG = b"\x89PNG\r\n\x1a\n"
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "


class Writing:
    """Reads pictures' text. `text` None: the extra is missing."""

    def __init__(self, text="") -> None:
        self.text = text

    async def read_picture(self, tenant, path):
        if self.text is None:
            raise MissingDependency.of("picture_ocr_missing")
        return Document(self.text, (Section(0, len(self.text)),), "image/png")


class Eyes:
    """Says what a file says behind its magic, and puts its vector where the query of the same words is."""

    def __init__(self, embedder, anchor="hash") -> None:
        self.embedder, self.anchor = embedder, anchor
        self.looked = 0
        self.error = None
        self.version = "1"

    def identity(self):
        return self.version

    async def look(self, tenant, path):
        self.looked += 1
        if self.error is not None:
            raise self.error
        shown = path.read_bytes()[len(PNG) :].decode()
        [vector] = await self.embedder.embed([shown], "query")
        return Look("perhaps something", vector, self.anchor)


class Ears:
    def __init__(self, *said) -> None:
        self.said = said
        self.began, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.heard = 0

    def identity(self):
        return "tiny"

    async def listen(self, tenant, path):
        self.heard += 1
        self.began.set()
        await self.go_on.wait()
        return self.said


class MediaHouse(House):
    def __init__(self, folder) -> None:
        super().__init__(folder)
        self.writing, self.eyes = Writing(), Eyes(self.embedder)
        self.ears = Ears(
            TranscriptSegment(0.0, 4.5, " The meeting begins."),
            TranscriptSegment(4.5, 71.25, " We choose the blue one."),
        )

        async def embedder_of(store):
            return self.embedder

        self.embedder_of = embedder_of
        self.media()

    def media(self):
        reader = MediaReader(self.writing, self.eyes, self.ears)
        self.ingestor = Ingestor(self.kept, self.files, self.parser, self.embedder_of, reader)

    async def picture(self, shown, name="a.png"):
        return await self.bytes(PNG + shown.encode(), name)

    async def recording(self, name="a.wav"):
        return await self.bytes(WAV, name)

    async def bytes(self, data, name):
        async def content():
            yield data

        return await self.files.create(LOCAL, filename=name, purpose="assistants", content=content())

    async def search(self, folder, query, **given):
        searcher = Searcher(self.kept, folder / "side", self.embedder_of)
        try:
            return await searcher.search(LOCAL, self.store.id, query, **given)
        finally:
            await searcher.close()

    async def error(self, file_id):
        return (await self.kept.files.get(LOCAL, self.store.id, file_id)).error_code


@pytest.fixture
async def house(tmp_path):
    house = await MediaHouse(tmp_path / "files").open()
    yield house
    house.database.close()


async def test_a_picture_without_text_is_found_by_what_it_shows(house, tmp_path):
    apple, boat = await house.picture("red apple"), await house.picture("a boat at sea", "b.png")
    for one in (apple, boat, await house.file("Apples are sold by the kilo in the shop.")):
        assert (await house.ingest(one.id)).status == "succeeded"
    [best, *_] = await house.search(tmp_path, "red apple")
    assert (best.file_id, best.filename, best.place.media) == (apple.id, "a.png", MediaPlace("picture"))
    assert best.text == "[picture] perhaps something"
    assert place_text(best.place) == "picture"
    assert "[picture] perhaps something" not in house.embedder.embedded  # its own vector stands there


async def test_text_in_a_picture_is_a_chunk_of_its_own(house, tmp_path):
    house.writing.text = "Closed on Mondays"
    poster = await house.picture("a poster")
    await house.ingest(poster.id)
    assert await house.texts() == ["[picture] perhaps something", "Closed on Mondays"]
    [best, *_] = await house.search(tmp_path, "closed mondays")
    assert best.text == "Closed on Mondays" and best.place.media == MediaPlace("picture")


async def test_another_embedder_reads_the_description(house):
    house.eyes.anchor = "another"
    await house.ingest((await house.picture("red apple")).id)
    assert house.embedder.embedded == ["[picture] perhaps something"]


async def test_a_recording_is_cited_by_its_times(house, tmp_path):
    talk = await house.recording("talk.wav")
    strategy = ChunkingStrategy(8, 0).encoded()
    await house.ingest(talk.id, chunking=strategy)
    assert await house.texts() == ["The meeting begins.", "We choose the blue one."]
    [best, *_] = await house.search(tmp_path, "the blue one")
    assert best.place.media == MediaPlace("recording", 4.5, 71.25) and best.filename == "talk.wav"
    assert place_text(best.place) == "0:04-1:11"


async def test_a_chunk_of_several_stretches_spans_them(house):
    await house.ingest((await house.recording()).id)
    files = await house.kept.files.list(LOCAL, house.store.id)
    [chunk] = await house.kept.chunks.of_file(LOCAL, house.store.id, files.data[0].file_id)
    place = msgspec.json.decode(chunk.place, type=Place)
    assert place.media == MediaPlace("recording", 0.0, 71.25)


async def test_an_equal_file_is_looked_at_once_until_the_means_change(house):
    first, second = await house.picture("red apple"), await house.picture("red apple", "copy.png")
    await house.ingest(first.id)
    await house.ingest(second.id)
    assert house.eyes.looked == 1
    house.eyes.version = "2"
    await house.ingest(first.id)
    assert house.eyes.looked == 2


async def test_a_picture_is_read_with_what_is_there(house):
    picture = await house.picture("red apple")
    house.writing.text = None  # no extra
    assert (await house.ingest(picture.id)).status == "succeeded"
    house.eyes.error = ModelNotFound.of("model_not_pulled", name="x", root="y")
    house.eyes.version = ""
    outcome = await house.ingest(picture.id)
    assert outcome.status == "failed" and await house.error(picture.id) == "server_error"
    assert "deepwell pull x" in outcome.error and "deepwell[ocr]" in outcome.error
    house.writing.text = "Words"
    assert (await house.ingest(picture.id)).status == "succeeded"
    assert await house.texts() == ["Words"]
    house.writing.text = ""
    house.eyes.version = "none"
    outcome = await house.ingest(picture.id)
    assert "no text in the picture" in outcome.error and "deepwell pull x" in outcome.error


async def test_a_refused_picture_is_the_files_own_fault(house):
    house.eyes.error = InvalidFile("refused", fix="take another")
    house.writing.text = "Words"
    picture = await house.picture("a thing")
    assert (await house.ingest(picture.id)).status == "failed"
    assert await house.error(picture.id) == "invalid_file"


async def test_a_recording_without_speech_fails_with_the_reason(house):
    house.ears.said = ()
    outcome = await house.ingest((await house.recording()).id)
    assert outcome.status == "failed" and "no speech" in outcome.error


async def test_without_senses_they_are_refused_as_before(house):
    house.ingestor = Ingestor(house.kept, house.files, Refusing(), house.embedder_of)
    picture = await house.picture("red apple")
    assert (await house.ingest(picture.id)).status == "failed"
    assert await house.error(picture.id) == "invalid_file"


class Refusing:
    async def parse(self, tenant, path, filename):
        raise InvalidFile("no such files", fix="none")


async def test_a_cancelled_job_ends_while_it_listens(house):
    house.ears.go_on.clear()
    recording = await house.recording()
    await house.kept.files.attach(LOCAL, house.store.id, [Attachment(recording.id)])
    run = JobRun(await house.jobs.claim([INGEST_JOB], "me", 10))
    work = asyncio.ensure_future(house.ingestor.run(run))
    await house.ears.began.wait()
    run.cancelled.set()
    assert (await work).status == "cancelled"
    assert await house.texts() == []


async def test_a_picture_that_is_found_by_its_vector_is_as_long_as_the_others(house):
    await house.ingest((await house.picture("red apple")).id)
    delta = await house.kept.chunks.delta(LOCAL, house.store.id, 0)
    assert delta.vectors.shape == (1, house.embedder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(delta.vectors, axis=1), 1, atol=1e-6)

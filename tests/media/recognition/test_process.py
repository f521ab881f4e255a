"""Recognition in a process of its own: the real model, errors of one recording alone, limits that hold."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tests.media.recordings import SAID, TONE, WEATHER, tone, wav

from deepwell.errors import (
    EngineUnavailable,
    InvalidFile,
    InvalidModelFile,
    InvalidRequest,
    MissingDependency,
    UnsupportedFile,
)
from deepwell.media.audio.decode import decode_audio
from deepwell.media.recognition import process as process_module
from deepwell.media.recognition.model import RecognitionModel
from deepwell.media.recognition.options import RecognitionOptions, Segment, SpeechDetection
from deepwell.media.recognition.process import Recogniser, RecogniserLimits, RecognitionBusy
from deepwell.media.recognition.whisper import pieces_of
from deepwell.media.recognition.written import text_of

PLAIN = RecognitionOptions()

# Tests share a recogniser, and the loop that it belongs to: to load its model takes as long as a recording.
with_shared_recogniser = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def model(whisper_path: Path) -> RecognitionModel:
    return RecognitionModel.of("whisper-tiny.en", whisper_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def recogniser(model: RecognitionModel) -> AsyncIterator[Recogniser]:
    recogniser = Recogniser(model, RecogniserLimits(threads=1, most_s=90))
    yield recogniser
    await recogniser.close()


async def heard(recogniser: Recogniser, path: Path, options: RecognitionOptions = PLAIN) -> list[Segment]:
    async with recogniser.hear("t", path, options) as hearing:
        return [segment async for segment in hearing.segments()]


@with_shared_recogniser
async def test_speech_becomes_its_words(recogniser: Recogniser) -> None:
    for path, said in SAID.items():
        async with recogniser.hear("t", path, PLAIN) as hearing:
            assert (hearing.language, hearing.probability, hearing.codec) == ("en", 1.0, "flac")
            segments = [segment async for segment in hearing.segments()]
        assert text_of(segments) == said
        assert 0 <= segments[0].start < segments[-1].end <= hearing.seconds + 0.1
        assert [one.number for one in segments] == [*range(len(segments))] and segments[0].words is None


@with_shared_recogniser
async def test_words_have_their_times(recogniser: Recogniser) -> None:
    (segment,) = await heard(recogniser, WEATHER, RecognitionOptions(words=True))
    assert segment.words is not None
    assert "".join(word.text for word in segment.words).strip() == SAID[WEATHER]
    starts = [word.start for word in segment.words]
    assert starts == sorted(starts) and all(word.start <= word.end for word in segment.words)


@with_shared_recogniser
async def test_the_same_recording_gives_the_same_text(recogniser: Recogniser) -> None:
    first = await heard(recogniser, TONE)
    await heard(recogniser, WEATHER)
    assert await heard(recogniser, TONE) == first


@with_shared_recogniser
async def test_detection_of_speech_leaves_silence_out(recogniser: Recogniser, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    silence.write_bytes(wav(np.zeros(16_000 * 5, np.int16)))
    assert await heard(recogniser, silence, RecognitionOptions(detection=SpeechDetection())) == []
    late = tmp_path / "late.wav"
    late.write_bytes(wav(np.concatenate([np.zeros(16_000 * 20, np.int16), decode_audio(TONE, 9).samples])))
    segments = await heard(recogniser, late, RecognitionOptions(detection=SpeechDetection(padding_ms=200)))
    assert text_of(segments) == SAID[TONE] and segments[0].start > 19


@with_shared_recogniser
async def test_an_english_model_refuses_what_it_cannot_do(recogniser: Recogniser) -> None:
    with pytest.raises(InvalidRequest, match=r"not the language 'zh': name a multilingual") as refused:
        await heard(recogniser, TONE, RecognitionOptions(language="zh"))
    assert refused.value.param == "language" and refused.value.said("zh")[0].startswith("该模型")
    with pytest.raises(InvalidRequest, match="translates nothing"):
        await heard(recogniser, TONE, RecognitionOptions(translate=True))
    assert text_of(await heard(recogniser, TONE, RecognitionOptions(language="en"))) == SAID[TONE]


@with_shared_recogniser
async def test_errors_are_those_of_one_recording(recogniser: Recogniser, tmp_path: Path) -> None:
    words, long = tmp_path / "words.wav", tmp_path / "long.wav"
    words.write_bytes(b"words")
    long.write_bytes(wav(tone(91)))
    await recogniser.start("t")
    pid = recogniser.pid
    with pytest.raises(UnsupportedFile):
        await heard(recogniser, words)
    with pytest.raises(InvalidFile, match="longer than 90 s"):
        await heard(recogniser, long)
    with pytest.raises(InvalidFile, match="cannot be read"):
        await heard(recogniser, Path("\udcff"))
    assert recogniser.pid == pid and text_of(await heard(recogniser, TONE)) == SAID[TONE]


async def test_a_recording_that_takes_too_long_fails_alone(
    model: RecognitionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        for name in ("_OPEN_S", "_OPEN_PART", "_SEGMENT_GB_S"):
            patch.setattr(process_module, name, 0.001)
        recogniser = Recogniser(model, RecogniserLimits(threads=1, most_s=1))
    try:
        with pytest.raises(InvalidFile, match="too much processor time: split it"):
            await heard(recogniser, TONE)
        assert recogniser.pid == 0
    finally:
        await recogniser.close()


async def _with_little_memory(model: RecognitionModel, monkeypatch: pytest.MonkeyPatch) -> Recogniser:
    """Returns a recogniser that can load the model, and little more: MKL reserves more where processors have AMX."""
    for mebibytes in (330, 1000):
        monkeypatch.setattr(RecogniserLimits, "memory_bytes", lambda *_, most=mebibytes: most << 20)
        recogniser = Recogniser(model, RecogniserLimits(threads=1))
        try:
            await recogniser.start("t")
        except InvalidModelFile:
            await recogniser.close()
        else:
            return recogniser
    raise AssertionError("the model does not load in 1000 MiB")


async def test_a_recording_that_takes_too_much_memory_fails_alone(
    model: RecognitionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(wav(tone(600)))
    recogniser = await _with_little_memory(model, monkeypatch)
    try:
        with pytest.raises(InvalidFile):
            await heard(recogniser, path)
        assert text_of(await heard(recogniser, TONE)) == SAID[TONE]
    finally:
        await recogniser.close()


@with_shared_recogniser
async def test_a_cancelled_recording_ends_and_the_next_begins(recogniser: Recogniser, tmp_path: Path) -> None:
    long = tmp_path / "long.wav"
    speech = decode_audio(TONE, 9).samples
    # One sentence in each window: the model takes windows that repeat a sentence again and again.
    long.write_bytes(wav(np.tile(np.pad(speech, (0, 16_000 * 29 - len(speech))), 3)))
    found: asyncio.Queue[Segment] = asyncio.Queue()

    async def listen() -> None:
        async with recogniser.hear("t", long, PLAIN) as hearing:
            async for segment in hearing.segments():
                found.put_nowait(segment)

    first = asyncio.create_task(listen())
    await found.get()
    waiting = asyncio.create_task(heard(recogniser, TONE))
    await asyncio.sleep(0)
    assert recogniser.waiting
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert text_of(await waiting) == SAID[TONE]


async def test_too_many_recordings_are_refused_and_the_others_are_recognised(
    model: RecognitionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_MOST_RECORDINGS", 2)
    recogniser = Recogniser(model, RecogniserLimits(threads=1))
    try:
        first, second, third = await asyncio.gather(
            *(heard(recogniser, TONE) for _ in range(3)), return_exceptions=True
        )
        assert isinstance(third, RecognitionBusy) and "in a while" in str(third)
        assert all(isinstance(one, list) and text_of(one) == SAID[TONE] for one in (first, second))
        assert not recogniser.waiting
    finally:
        await recogniser.close()


@with_shared_recogniser
async def test_a_killed_child_is_replaced(recogniser: Recogniser) -> None:
    async with recogniser.hear("t", TONE, PLAIN) as hearing:
        os.kill(recogniser.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="send the request again"):
            await anext(hearing.segments())
    assert text_of(await heard(recogniser, TONE)) == SAID[TONE]


async def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelFile, match=r"model\.bin"):
        RecognitionModel.of("x", tmp_path)
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_bytes(b"{}")
    (tmp_path / "model.bin").write_bytes(b"{}")
    with pytest.raises(InvalidModelFile, match=r"model\.bin"):
        RecognitionModel.of("x", tmp_path)
    (tmp_path / "model.bin").write_bytes(struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + bytes(1000))
    recogniser = Recogniser(RecognitionModel.of("x", tmp_path))
    with pytest.raises(InvalidModelFile, match="cannot be loaded"):
        await recogniser.start("t")
    assert recogniser.pid == 0
    await recogniser.close()


async def test_the_extra_is_named_where_it_is_missing(
    model: RecognitionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "NEEDED", ("no_such_module",))
    recogniser = Recogniser(model)
    with pytest.raises(MissingDependency, match=r"pip install 'deepwell\[speech\]'"):
        await heard(recogniser, TONE)
    assert recogniser.pid == 0


def test_long_recordings_are_cut_where_they_are_quiet() -> None:
    samples = tone(100)
    samples[16_000 * 35 : 16_000 * 36] = 0
    samples[16_000 * 70 : 16_000 * 71] = 0
    pieces = [*pieces_of(samples, 40)]
    assert [len(piece) for _, piece in pieces] == [
        later - earlier
        for (earlier, _), (later, _) in zip(pieces, [*pieces[1:], (len(samples), None)], strict=True)
    ]
    cuts = [start / 16_000 for start, _ in pieces]
    assert cuts[0] == 0 and 35 <= cuts[1] <= 36 and 70 <= cuts[2] <= 71
    assert [start for start, _ in pieces_of(samples[:100], 40)] == [0]

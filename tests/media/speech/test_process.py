"""Text becomes speech in a confined process: the real model, what it pronounces, hostile text, limits and turns."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from deepwell.errors import InvalidModelFile, InvalidRequest, ModelNotFound
from deepwell.media.speech.encode import fill_wav_lengths
from deepwell.media.speech.options import SpeechModel, SpeechRequest, open_speech_model, planned_speech
from deepwell.media.speech.process import Sound, Speaker, SpeakerLimits, SpeechBusy
from deepwell.media.speech.pronounce import Pronouncer
from deepwell.media.speech.vocabulary import SYMBOLS
from deepwell.models.formats.kinds import SPEECH_MODEL
from deepwell.models.store.store import ModelStore

ONE_THREAD = SpeakerLimits(threads=1)
FAST = 4.0  # a sound takes as long to make as it lasts

# The model takes seconds to start: tests share a speaker, and the loop that it belongs to.
with_shared_speaker = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def pronouncer(kokoro_path: Path) -> Pronouncer:
    return Pronouncer(kokoro_path)


@pytest.fixture(scope="module")
def model(kokoro_path: Path) -> SpeechModel:
    return SpeechModel("kokoro", kokoro_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def speaker(model: SpeechModel) -> AsyncIterator[Speaker]:
    speaker = Speaker(model, ONE_THREAD)
    yield speaker
    await speaker.close()


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hello world.", "həlˈO wˈɜɹld."),
        ("the apple, the book", "ði ˈæpᵊl, ðə bˈʊk"),
        ("I have read it. I will read it.", "ˈI hæv ɹˈɛd ɪt. ˈI wɪl ɹˈid ɪt."),
        ("今天天气很好！", "ʨi→ntʰjɛ→ntʰjɛ→nʨʰi↘ xə↓n xau↓!"),
        ("银行行长", "i↗nxa↗ŋxa↗ŋꭧa↓ŋ"),
        ("一个人", "i↗kɤ↘ ɻə↗n"),
        ("IT in the US", "ˌItˈi ɪn ðə jˌuˈɛs"),
        ("GPU", "ʤˌipˌijˈu"),
        ("café", "kæfˈA"),
    ],
)
def test_pronunciation(pronouncer: Pronouncer, text: str, phonemes: str) -> None:
    assert pronouncer.phonemes(text, "en", british=False) == phonemes


@pytest.mark.parametrize(
    "text",
    [
        "请用 DeepSeek 的 API 调用 Qwen2.5 模型，5GB 内存。",
        "Zyxqwv blorpification of naïve 东西 α-β, e.g. x86_64 & C++!",
        "Ⅳ ½ № ™ ﬁ ß œ æ",
        "'''' \"\" ((( ))) --- ___ ///",
        "a" * 300,
        "好" * 300,
    ],
)
def test_every_symbol_is_one_of_the_model(pronouncer: Pronouncer, text: str) -> None:
    for british in (False, True):
        phonemes = pronouncer.phonemes(text, "en", british=british)
        assert set(phonemes) <= SYMBOLS.keys()
        assert any(map(str.isalpha, text)) == any(map(str.isalpha, phonemes))


def test_words_that_no_lexicon_has_are_read(pronouncer: Pronouncer) -> None:
    for word in ("blorp", "Zyxqwv", "tokeniser's", "reranking", "XQJZV", "DeepSeek", "œuvre"):
        assert pronouncer.phonemes(word, "en", british=False)


async def said(speaker: Speaker, request: SpeechRequest) -> list[Sound]:
    async with aclosing(speaker.speak("t", request)) as sounds:
        return [sound async for sound in sounds]


def samples(sounds: list[Sound]) -> np.ndarray:
    file = io.BytesIO(b"".join(sound.data for sound in sounds))
    fill_wav_lengths(file)
    file.seek(0)
    with wave.open(file) as sound:
        return np.frombuffer(sound.readframes(sound.getnframes()), "<i2")


@with_shared_speaker
async def test_sentences_come_one_by_one_and_make_one_file(speaker: Speaker, model: SpeechModel) -> None:
    request = planned_speech(model, "Hello there. 天气很好。")
    sounds = await said(speaker, request)
    assert [sound.last for sound in sounds] == [False, True]
    assert all(len(sound.data) > 24_000 and sound.tokens and sound.characters for sound in sounds)
    sound = samples(sounds)
    assert len(sound) == round(sum(one.seconds for one in sounds) * 24_000)
    assert 1000 < np.abs(sound).max() < 32_767
    seam = len(samples(sounds[:1]))
    assert not sound[seam - 4800 : seam + 1].any(), "sentences are joined in silence"


@with_shared_speaker
async def test_the_same_text_is_the_same_sound(speaker: Speaker, model: SpeechModel) -> None:
    request = planned_speech(model, "Good morning.", speed=FAST)
    first, second = await said(speaker, request), await said(speaker, request)
    assert first == second


@with_shared_speaker
async def test_speed_shortens_and_voices_differ(speaker: Speaker, model: SpeechModel) -> None:
    async def seconds(**asked: object) -> float:
        request = planned_speech(model, "Hi.", **asked)  # pyright: ignore[reportArgumentType]
        return sum(one.seconds for one in await said(speaker, request))

    as_it_is = await seconds(voice="af_heart")
    assert await seconds(speed=4.0) < as_it_is < await seconds(speed=0.5)
    assert await seconds(voice="bm_george") != as_it_is


@with_shared_speaker
async def test_texts_take_turns(speaker: Speaker, model: SpeechModel) -> None:
    order: list[int] = []

    async def one(number: int) -> None:
        async with aclosing(
            speaker.speak("t", planned_speech(model, "One more. Two more words. And three.", speed=FAST))
        ) as sounds:
            async for _ in sounds:
                order.append(number)  # noqa: PERF401  # in the order in which they come

    await asyncio.gather(one(1), one(2))
    assert order[0] != order[1], "the second does not wait for the end of the first"


@with_shared_speaker
async def test_a_text_that_nobody_waits_for_is_forgotten(speaker: Speaker, model: SpeechModel) -> None:
    request = planned_speech(model, "One more. Two more words. And three.", speed=FAST)
    stream = speaker.speak("t", request)
    assert (await anext(stream)).data
    pid = speaker.pid
    await stream.aclose()
    assert (await said(speaker, request))[-1].last and speaker.pid == pid


@with_shared_speaker
async def test_too_many_texts_are_refused(
    speaker: Speaker, model: SpeechModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = speaker._turns  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(turns, "_rules", replace(turns._rules, most=1))  # pyright: ignore[reportPrivateUsage]
    request = planned_speech(model, "One more. Two more words.", speed=FAST)
    stream: AsyncGenerator[Sound] = speaker.speak("t", request)
    await anext(stream)
    with pytest.raises(SpeechBusy, match="wait for it"):
        await said(speaker, request)
    await stream.aclose()
    assert await said(speaker, request)


@with_shared_speaker
async def test_a_child_that_was_killed_is_replaced(speaker: Speaker, model: SpeechModel) -> None:
    request = planned_speech(model, "One more.", speed=FAST)
    first = await said(speaker, request)
    pid = speaker.pid
    await asyncio.to_thread(speaker._turns._calls.close)  # pyright: ignore[reportPrivateUsage]
    assert await said(speaker, request) == first and speaker.pid not in (0, pid)


def small(
    folder: Path, kokoro_path: Path, *, onnx: bytes | None = None, voice: bytes | None = None
) -> SpeechModel:
    """A copy of the model with a file of its own."""
    (folder / "voices").mkdir(parents=True)
    for path in (*kokoro_path.glob("*.*"), kokoro_path / "voices" / "af_heart.bin"):
        if path.is_file():
            (folder / path.relative_to(kokoro_path)).symlink_to(path)
    for name, data in ((SPEECH_MODEL, onnx), ("voices/af_heart.bin", voice)):
        if data is not None:
            (folder / name).unlink()
            (folder / name).write_bytes(data)
    return SpeechModel("kokoro", folder)


@pytest.mark.parametrize(
    "changed",
    [{"onnx": b""}, {"onnx": b"\x08\x07" + b"junk" * 100}, {"voice": b""}, {"voice": b"\xff" * 522_240}],
)
async def test_a_damaged_model_says_so(tmp_path: Path, kokoro_path: Path, changed: dict[str, bytes]) -> None:
    model = small(tmp_path / "copy", kokoro_path, **changed)
    speaker = Speaker(model, ONE_THREAD)
    try:
        with pytest.raises(InvalidModelFile, match="deepwell pull kokoro"):
            await said(speaker, planned_speech(model, "Hello."))
    finally:
        await speaker.close()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"voice": "somebody"}, "there is no voice 'somebody'"),
        ({"voice": "../af_heart"}, "there is no voice"),
        ({"speed": 0.1}, "between 0.25 and 4"),
        ({"speed": float("nan")}, "between 0.25 and 4"),
        ({"text": "你好", "voice": "af_heart"}, "use zf_xiaoxiao"),
        ({"text": "a" * 1_000_001}, "1000001 characters"),
    ],
)
def test_what_cannot_be_said_is_refused(model: SpeechModel, asked: dict[str, object], told: str) -> None:
    text = str(asked.pop("text", "hello"))
    with pytest.raises(InvalidRequest, match=told):
        planned_speech(model, text, **asked)  # pyright: ignore[reportArgumentType]


def test_openais_names_take_a_voice_of_the_texts_language(model: SpeechModel) -> None:
    assert planned_speech(model, "hello", voice="nova").voice.name == "af_nova"
    assert planned_speech(model, "你好", voice="nova").voice.name == "zf_xiaoyi"
    assert planned_speech(model, "hello").voice.name == "af_heart"
    assert planned_speech(model, "hello", voice="zf_xiaobei").voice.language == "zh"
    assert len(model.voices) == 36


def test_a_model_of_another_kind_reads_nothing_aloud(tmp_path: Path, smollm2_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="is no speech model"):
        open_speech_model(ModelStore(tmp_path), str(smollm2_path))
    with pytest.raises(ModelNotFound, match="deepwell pull kokoro"):
        open_speech_model(ModelStore(tmp_path), "kokoro")

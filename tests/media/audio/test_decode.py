"""Decoding: the same sound from every container, and an end of its own for whatever else a file holds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.media.decoding_child import PROCESSOR_S
from tests.media.recordings import TONE, encoded, hostile, tone, wav, wav_header

from deepwell.errors import DeepwellError, InvalidFile, UnsupportedFile
from deepwell.media.audio.decode import SAMPLE_RATE, decode_audio
from deepwell.process.calls import CallProcess, handed

MOST_S = 90.0


@pytest.fixture(scope="module")
def child() -> Iterator[CallProcess]:
    child = CallProcess("tests.media.decoding_child", str(MOST_S).encode())
    yield child
    child.close()


def written(folder: Path, data: bytes, name: str = "a") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("mp4", "aac"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("flac", "flac"),
        ("wav", "pcm_s16le"),
        ("aiff", "pcm_s16be"),
        ("mpegts", "aac"),
        ("adts", "aac"),
    ],
)
def test_every_container_gives_the_same_sound(tmp_path: Path, container: str, codec: str) -> None:
    sound = decode_audio(written(tmp_path, encoded(tone(2, 48_000), container, codec)), 10)
    assert sound.samples.dtype == np.int16 and abs(sound.seconds - 2) < 0.1
    spectrum = np.abs(np.fft.rfft(sound.samples[:SAMPLE_RATE].astype(float)))
    assert abs(int(spectrum.argmax()) - 440) <= 1


def test_samples_of_16_khz_stay_as_they_are(tmp_path: Path) -> None:
    samples = tone(1.5)
    sound = decode_audio(written(tmp_path, wav(samples)), 10)
    np.testing.assert_array_equal(sound.samples, samples)
    assert (sound.container, sound.codec) == ("wav", "pcm_s16le")


def test_channels_are_mixed(tmp_path: Path) -> None:
    both = np.stack([tone(1), np.zeros(16_000, np.int16)], axis=1)
    sound = decode_audio(written(tmp_path, wav(both, channels=2)), 10)
    assert abs(sound.seconds - 1) < 0.01 and 3000 < sound.samples.max() < 7000


def test_the_longest_recording_is_a_limit(tmp_path: Path) -> None:
    path = written(tmp_path, wav(tone(3)))
    assert decode_audio(path, 3).seconds == 3
    with pytest.raises(InvalidFile, match="longer than 2 s: split it") as refused:
        decode_audio(path, 2)
    assert refused.value.param == "file" and refused.value.status == 400


def test_a_header_that_promises_more_gives_what_is_there(tmp_path: Path) -> None:
    sound = decode_audio(written(tmp_path, wav_header(0xFFFFFFFF) + tone(1).tobytes()), 10)
    assert abs(sound.seconds - 1) < 0.01


def test_errors_name_the_fix(tmp_path: Path) -> None:
    with pytest.raises(InvalidFile, match="empty file"):
        decode_audio(written(tmp_path, b""), 10)
    with pytest.raises(InvalidFile, match="cannot be read"):
        decode_audio(tmp_path / "none", 10)
    with pytest.raises(InvalidFile, match="cannot be read"):
        decode_audio(tmp_path, 10)
    with pytest.raises(UnsupportedFile, match=r"ffmpeg -i FILE call\.wav"):
        decode_audio(written(tmp_path, b"words"), 10)
    nan = wav_header(64_000, bits=32, kind=3) + np.full(16_000, np.nan, np.float32).tobytes()
    with pytest.raises(InvalidFile, match="not numbers"):
        decode_audio(written(tmp_path, nan), 10)


HOSTILE = dict(hostile(TONE.absolute()))
_REFERRING = ("playlist", "web", "concat", "subfile", "dash", "session", "script")
REFERRING = {name for name in HOSTILE if name.startswith(_REFERRING)}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_bounds(child: CallProcess, tmp_path: Path, name: str) -> None:
    child.start("t")
    pid = child.pid
    with handed(written(tmp_path, HOSTILE[name], name)) as file:
        answer: dict[str, Any] = json.loads(child.call(b"{}", PROCESSOR_S, tenant="t", file=file))
    assert child.pid == pid, "it ended the process"
    if "seconds" in answer:
        assert name not in REFERRING and 0 < answer["seconds"] <= MOST_S
    else:
        assert answer["error"] in ("InvalidFile", "UnsupportedFile") and answer["key"].startswith("audio_")


def test_there_are_hostile_files_of_every_kind() -> None:
    assert len(HOSTILE) >= 45 and len(REFERRING) >= 8


def test_a_file_that_refers_to_others_opens_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = os.open

    def watched(path: Any, *more: Any, **named: Any) -> int:
        opened.append(os.fspath(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", watched)
    for name in sorted(REFERRING):
        with pytest.raises(DeepwellError):
            decode_audio(written(tmp_path, HOSTILE[name], name), MOST_S)
    assert str(TONE.absolute()) not in opened

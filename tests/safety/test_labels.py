"""Labels of generated content: written, read back, replaced and not lost; damaged files are refused."""

from __future__ import annotations

import io
import re
import struct
import wave
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import DeepwellError, InvalidFile, InvalidRequest, UnsupportedFile
from deepwell.safety.labels import (
    AigcLabel,
    closing_mark,
    has_mark,
    labelled,
    labelled_audio,
    labelled_png,
    read_audio_label,
    read_png_label,
    read_text_label,
    response_metadata,
    text_file,
    with_corner_mark,
    with_rhythm,
)
from deepwell.safety.labels.image import SIGNATURE, chunk, chunks

LABEL = AigcLabel.first("001191110102MAD55U9H0F10002", "resp_7f3", "sha256:ab/c+d==")
OTHER = AigcLabel.first("another", "resp_8")
FIELDS = [
    "Label",
    "ContentProducer",
    "ProduceID",
    "ReservedCode1",
    "ContentPropagator",
    "PropagateID",
    "ReservedCode2",
]


def png(width: int = 120, height: int = 80, colour: int = 2, channels: int = 3) -> bytes:
    pixels = np.arange(width * height * channels, dtype=np.uint8).reshape(height, -1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return SIGNATURE + b"".join(parts)


def wav(channels: int = 1, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\1\2" * channels * 101)
    return buffer.getvalue()


MP3 = b"\xff\xfb\x90\x00" + bytes(400)


def test_the_fields_are_those_of_the_standard_in_its_order():
    assert list(LABEL.fields()) == FIELDS
    assert LABEL.fields()["PropagateID"] == LABEL.fields()["ProduceID"] == "resp_7f3"
    assert LABEL.text().startswith('{"AIGC": {"Label":"1","ContentProducer":"0011')
    assert AigcLabel.parse(LABEL.text()) == LABEL
    assert response_metadata(LABEL) == {"AIGC": LABEL.text()}


@pytest.mark.parametrize(
    ("producer", "id"), [("", "1"), ("深井", "1"), ("a b", "1"), ('a"', "1"), ("a", "\\")]
)
def test_values_outside_of_the_characters_of_the_standard_are_refused(producer: str, id: str):
    with pytest.raises(InvalidRequest, match="cannot be the"):
        AigcLabel.first(producer, id)


@given(st.text(max_size=200))
def test_a_text_that_is_no_label_is_refused(text: str):
    with pytest.raises(InvalidRequest):
        AigcLabel.parse(text)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_generated_text_ends_with_its_mark_once(language):
    once = labelled("Water boils at 100 °C.", language)
    assert once == "Water boils at 100 °C." + closing_mark(language)
    assert has_mark(once) and labelled(once, language) == once
    assert labelled("  ", language) == "  "
    assert "AI" in closing_mark("en") and "人工智能生成" in closing_mark("zh")


def test_a_text_file_has_its_label_at_its_head():
    file = text_file("# Report\n", LABEL)
    assert file.endswith("# Report\n")
    assert read_text_label(file) == LABEL
    for text in (
        "# Report\n",
        "---\nAIGC: &a [*a]\n---\n",
        "---\nAIGC: 1\n---\n",
        "---\n{{{\n---\n",
        "---\n",
    ):
        assert read_text_label(text) is None


def test_an_image_keeps_its_label_and_its_pixels():
    once = labelled_png(png(), OTHER)
    twice = labelled_png(once, LABEL)
    assert read_png_label(png()) is None
    assert read_png_label(twice) == LABEL
    assert [body for kind, body in chunks(twice) if kind == b"IDAT"] == [
        body for kind, body in chunks(png()) if kind == b"IDAT"
    ]
    assert sum(kind == b"tEXt" for kind, _ in chunks(twice)) == 1


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_the_mark_of_an_image_is_a_twentieth_of_its_shortest_side(colour: int, channels: int):
    marked = with_corner_mark(labelled_png(png(300, 400, colour, channels), LABEL))
    assert read_png_label(marked) == LABEL
    header = next(body for kind, body in chunks(marked) if kind == b"IHDR")
    assert struct.unpack(">II", header[:8]) == (300, 400)
    raw = zlib.decompress(next(body for kind, body in chunks(marked) if kind == b"IDAT"))
    lines = np.frombuffer(raw, np.uint8).reshape(400, -1)[:, 1:].reshape(400, 300, channels)
    before = np.arange(300 * 400 * channels, dtype=np.uint8).reshape(400, 300, channels)
    changed = np.nonzero((lines != before).any(axis=(1, 2)))[0]
    white = np.nonzero((lines[..., 0] == 255).all(axis=1))[0]
    assert changed.min() > 350 and white.size == 0
    letters = np.nonzero(((lines[..., 0] == 255) & (before[..., 0] != 255)).any(axis=1))[0]
    assert letters.max() - letters.min() + 1 >= 15


def test_filters_of_the_rows_are_undone():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (60, 100, 3), dtype=np.uint8)
    lines = pixels.reshape(60, -1).astype(int)
    raw = b""
    for number, line in enumerate(lines):
        up = lines[number - 1] if number else np.zeros_like(line)
        left = np.concatenate([np.zeros(3, int), line[:-3]])
        corner = np.concatenate([np.zeros(3, int), up[:-3]])
        near = left + up - corner
        options = np.stack([left, up, corner])
        guess = np.take_along_axis(options, np.abs(near - options).argmin(0)[None], 0)[0]
        kind = number % 5
        told = [0, left, up, (left + up) // 2, guess][kind]
        raw += bytes([kind]) + ((line - told) & 255).astype(np.uint8).tobytes()
    header = struct.pack(">IIBBBBB", 100, 60, 8, 2, 0, 0, 0)
    file = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    marked = with_corner_mark(file)
    out = np.frombuffer(zlib.decompress(list(chunks(marked))[1][1]), np.uint8).reshape(60, -1)[:, 1:]
    assert (out.reshape(60, 100, 3)[:40] == pixels[:40]).all()


def test_images_that_cannot_be_marked_are_named():
    with pytest.raises(InvalidFile, match="too small"):
        with_corner_mark(png(20, 20))
    with pytest.raises(UnsupportedFile, match="8 bits"):
        with_corner_mark(png(120, 80, 3, 1))
    for damaged in (b"", png()[:-20], png()[:60] + b"\0" + png()[61:]):
        with pytest.raises(InvalidFile):
            labelled_png(damaged, LABEL)


def test_sound_keeps_its_label_and_its_samples():
    file = labelled_audio(labelled_audio(wav(), OTHER), LABEL)
    assert read_audio_label(wav()) is None
    assert read_audio_label(file) == LABEL
    with wave.open(io.BytesIO(file)) as sound:
        assert sound.readframes(999) == b"\1\2" * 101
    without = file[: file.rindex(b"AIGC" + struct.pack("<I", len(LABEL.text())))]
    assert read_audio_label(struct.pack("<4sI", b"RIFF", len(without) - 8) + without[8:]) == LABEL
    assert file.count(b"001191110102MAD55U9H0F10002") == 4  # two copies, each as producer and propagator


def test_other_comments_of_a_sound_stay():
    comment = struct.pack("<4s4sI", b"INFO", b"ISFT", 4) + b"abc\0"
    file = wav() + struct.pack("<4sI", b"LIST", len(comment)) + comment
    assert b"abc\0" in labelled_audio(labelled_audio(file, OTHER), LABEL)


def test_a_labelled_mp3_file_keeps_its_sound_and_its_other_frames():
    title = b"TIT2" + b"\0\0\0\4" + b"\0\0" + b"\0abc"
    for version in (3, 4):
        tagged = b"ID3" + bytes((version, 0, 0)) + b"\0\0\0" + bytes((len(title),)) + title + MP3
        file = labelled_audio(labelled_audio(tagged, OTHER), LABEL)
        assert read_audio_label(file) == LABEL
        assert file.endswith(MP3) and title in file and b"resp_8" not in file
    assert read_audio_label(labelled_audio(MP3, LABEL)) == LABEL
    with pytest.raises(UnsupportedFile, match="flags"):
        labelled_audio(b"ID3\4\0\x80\0\0\0\0" + MP3, LABEL)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_rhythm_of_a_sound_is_heard_before_it(channels: int):
    file = labelled_audio(with_rhythm(wav(channels)), LABEL)
    with wave.open(io.BytesIO(file)) as sound:
        assert sound.getnchannels() == channels
        samples = np.frombuffer(sound.readframes(10**6), "<i2")[::channels].astype(int)
    assert list(samples[-101:]) == [0x201] * 101
    loud = np.abs(samples[:-101]).reshape(-1, 1920).max(axis=1) > 5000
    assert list(loud) == [True, False, True, True, True, False, False, False, True, False, True] + [False] * 3


@given(st.binary(max_size=300), st.sampled_from([b"", SIGNATURE, b"RIFF\0\0\0\0WAVE", b"ID3\4\0\0\0\0\1\0"]))
def test_strange_files_are_refused_or_have_no_label(data: bytes, head: bytes):
    for read in (read_png_label, read_audio_label):
        with suppress(DeepwellError):
            assert read(head + data) is None


def test_the_program_of_the_guide_labels_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guide = Path(__file__).parents[2] / "docs" / "guides" / "compliance.md"
    [program] = re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL)
    rows = b"".join(b"\0" + b"\xc8\xc8\xc8" * 64 for _ in range(64))
    picture = [struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0), zlib.compress(rows), b""]
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in zip((b"IHDR", b"IDAT", b"IEND"), picture, strict=True)
    ]
    (tmp_path / "in.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "guide", "exec"), {})
    assert "'ProduceID': 'img-0001'" in capsys.readouterr().out

"""Labels of generated audio: chunks of WAV files, a frame of MP3 files, and a rhythm that people hear.

The rhythm is "AI" in Morse code: short, long; short, short.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from deepwell.errors import InvalidFile, InvalidRequest, UnsupportedFile
from deepwell.safety.labels.fields import KEYWORD, MOST_BYTES, AigcLabel

__all__ = ["labelled_audio", "read_audio_label", "with_rhythm"]

_CHUNK: Final = KEYWORD.encode()
_COMMENT: Final = b"ICMT"
_DESCRIPTION: Final = b"\0" + KEYWORD.encode() + b"\0"  # a TXXX frame: Latin-1, description, value
_SHORT_S: Final = 0.12
_TONE_HZ: Final = 880
_RHYTHM: Final = ((1, 1), (3, 3), (1, 1), (1, 3))  # tone and pause, in lengths of a short one


def labelled_audio(data: bytes, label: AigcLabel) -> bytes:
    """Returns a WAV or MP3 file with the label in its metadata. One that it had is replaced.

    Raises:
        InvalidFile: the data are no whole file.
        UnsupportedFile: they are neither WAV nor MP3, or the MP3 file has a tag that cannot be extended.
    """
    text = label.text().encode("ascii")
    if _is_wav(data):
        old = [(kind, _without_label(kind, body)) for kind, body in _chunks(data) if kind != _CHUNK]
        kept = [(kind, body) for kind, body in old if body != b"INFO"]
        info = b"INFO" + _chunk(_COMMENT, text + b"\0")
        return _riff([*kept, (b"LIST", info), (_CHUNK, text)])
    frames, sound = _id3(data)
    own = _DESCRIPTION + text
    pieces = [
        whole for kind, content, whole in frames if not (kind == b"TXXX" and content.startswith(_DESCRIPTION))
    ]
    version = data[3] if data.startswith(b"ID3") else 4
    frame = b"TXXX" + _frame_size(len(own), version) + b"\0\0" + own
    tag = b"".join((*pieces, frame))
    return b"ID3" + bytes((version, 0, 0)) + _syncsafe(len(tag)) + tag + sound


def read_audio_label(data: bytes) -> AigcLabel | None:
    """Returns the label of a WAV or MP3 file, or None if it has none that can be read. Raises as `labelled_audio`."""
    texts: list[bytes] = []
    if _is_wav(data):
        for kind, body in _chunks(data):
            if kind == _CHUNK:
                texts.append(body)
            elif kind == b"LIST" and body.startswith(b"INFO"):
                texts += [inner.rstrip(b"\0") for name, inner in _walk(body, 4) if name == _COMMENT]
    else:
        for kind, content, _ in _id3(data)[0]:
            if kind == b"TXXX" and content.startswith(_DESCRIPTION):
                texts.append(content[len(_DESCRIPTION) :].rstrip(b"\0"))  # which some writers end it with
    for text in texts:
        try:
            if len(text) <= MOST_BYTES:
                return AigcLabel.parse(text.decode("latin-1"))
        except InvalidRequest:
            continue
    return None


def with_rhythm(data: bytes) -> bytes:
    """Returns a WAV file with the rhythm before its sound, in the file's own format.

    Raises:
        InvalidFile: the data are no whole WAV file.
        UnsupportedFile: the sound is no PCM of 16 bits.
    """
    import numpy as np

    if not _is_wav(data):
        raise UnsupportedFile("the data are no WAV file", fix="put the rhythm before the sound is encoded")
    parts = _chunks(data)
    form = next((body for kind, body in parts if kind == b"fmt "), b"")
    if len(form) < 16 or not any(kind == b"data" for kind, _ in parts):
        raise InvalidFile("the WAV file has no format or no sound")
    coding, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", form)
    if coding not in (1, 0xFFFE) or bits != 16 or not 1 <= channels <= 8 or not 4000 <= rate <= 384_000:
        raise UnsupportedFile("the sound is no PCM of 16 bits", fix="write the sound as 16-bit PCM")
    unit = int(_SHORT_S * rate)
    pieces: list[np.ndarray] = []
    for tone, pause in _RHYTHM:
        wave = np.sin(2 * np.pi * _TONE_HZ / rate * np.arange(tone * unit)) * 12_000
        ramp = np.minimum(1, np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) / (0.01 * rate))
        pieces += [wave * ramp, np.zeros(pause * unit)]
    sound = np.concatenate(pieces).astype("<i2").repeat(channels).tobytes()
    return _riff([(kind, sound + body if kind == b"data" else body) for kind, body in parts])


def _is_wav(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


def _without_label(kind: bytes, body: bytes) -> bytes:
    """Returns a chunk without the label that it may have among its comments."""
    if kind != b"LIST" or not body.startswith(b"INFO"):
        return body
    kept = [
        (name, inner)
        for name, inner in _walk(body, 4)
        if not (name == _COMMENT and inner.startswith(f'{{"{KEYWORD}"'.encode()))
    ]
    return b"INFO" + b"".join(_chunk(name, inner) for name, inner in kept)


def _chunks(data: bytes) -> Sequence[tuple[bytes, bytes]]:
    return list(_walk(data, 12))


def _walk(data: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            raise InvalidFile(f"the WAV file is cut off in its chunk {kind!r}")
        yield kind, body
        at += 8 + length + length % 2


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("<4sI", kind, len(body)) + body + b"\0" * (len(body) % 2)


def _riff(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    body = b"WAVE" + b"".join(_chunk(kind, inner) for kind, inner in parts)
    return struct.pack("<4sI", b"RIFF", len(body)) + body


def _id3(data: bytes) -> tuple[Sequence[tuple[bytes, bytes, bytes]], bytes]:
    """Returns the frames of an MP3 file (name, content, whole) and what is behind its tag (ID3 2.4, section 3)."""
    if not data.startswith(b"ID3"):
        if len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0:
            return [], data
        raise UnsupportedFile(
            "the data are neither a WAV nor an MP3 file", fix="convert the sound to WAV or MP3"
        )
    if len(data) < 10:
        raise InvalidFile("the MP3 file is cut off")
    version, flags = data[3], data[5]
    if version not in (3, 4) or flags:
        raise UnsupportedFile(
            f"the tag of the MP3 file is ID3 2.{version} with flags {flags:#x}", fix="remove the tag first"
        )
    size = _number(data[6:10], 7)
    tag, sound = data[10 : 10 + size], data[10 + size :]
    if len(tag) < size:
        raise InvalidFile("the MP3 file is cut off in its tag")
    frames: list[tuple[bytes, bytes, bytes]] = []
    at = 0
    while at + 10 <= len(tag) and tag[at]:
        length = _number(tag[at + 4 : at + 8], 7 if version == 4 else 8)
        if at + 10 + length > len(tag):
            raise InvalidFile("the tag of the MP3 file is damaged")
        whole = tag[at : at + 10 + length]
        frames.append((whole[:4], whole[10:], whole))
        at += 10 + length
    return frames, sound


def _number(data: bytes, bits: int) -> int:
    number = 0
    for byte in data:
        number = number << bits | byte
    return number


def _syncsafe(number: int) -> bytes:
    if number >= 1 << 28:
        raise InvalidFile("the tag of the MP3 file is too large")
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def _frame_size(number: int, version: int) -> bytes:
    return _syncsafe(number) if version == 4 else struct.pack(">I", number)

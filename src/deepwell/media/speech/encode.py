"""Encodes speech as it is made: WAV and PCM by hand, MP3, Opus, AAC and FLAC by FFmpeg's encoders in PyAV."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Protocol

from deepwell.media.speech.sound import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["LABEL", "MEDIA_TYPES", "Encoder", "SpeechFormat", "encoder_of", "fill_wav_lengths"]

SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]

MEDIA_TYPES: Final[Mapping[SpeechFormat, str]] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}

LABEL: Final = "AIGC"
"""Name of the metadata field that says that the sound was generated (GB 45438-2025, annex E)."""

_UNKNOWN: Final = 0xFFFFFFFF
_PCM_BYTES: Final = 2
_MOST_HEADER_BYTES: Final = 64 << 10

# Container, codec, sample rate, bits a second.
_CODED: Final[Mapping[SpeechFormat, tuple[str, str, int, int]]] = {
    "mp3": ("mp3", "libmp3lame", 24_000, 96_000),
    "opus": ("ogg", "libopus", 48_000, 48_000),
    "aac": ("adts", "aac", 24_000, 96_000),
    "flac": ("flac", "flac", 24_000, 0),
}


class Encoder(Protocol):
    """Encodes samples as they come."""

    def add(self, samples: NDArray[np.int16]) -> bytes:
        """Returns the bytes that are ready after further samples."""
        ...

    def end(self) -> bytes:
        """Returns the last bytes."""
        ...


def encoder_of(format: SpeechFormat, label: str) -> Encoder:
    """Returns an encoder of 24 kHz mono sound.

    Args:
        label: text of the label of generated content, for the file's metadata; empty: none. PCM has no metadata.
    """
    if format == "pcm":
        return _Raw(b"")
    return _Raw(_wav_header(label)) if format == "wav" else _Coded(format, label)


class _Raw:
    """Samples as they are, behind a header."""

    def __init__(self, header: bytes) -> None:
        self._header = header

    def add(self, samples: NDArray[np.int16]) -> bytes:
        header, self._header = self._header, b""
        return header + samples.astype("<i2").tobytes()

    def end(self) -> bytes:
        header, self._header = self._header, b""
        return header


def _wav_header(label: str) -> bytes:
    """Returns the header of a WAV file whose length is not known yet, as players take it from a stream."""
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, SAMPLE_RATE * _PCM_BYTES, _PCM_BYTES, 8 * _PCM_BYTES)
    chunks = _chunk(b"fmt ", form)
    if label:
        text = label.encode("ascii")
        chunks += _chunk(b"LIST", b"INFO" + _chunk(b"ICMT", text + b"\0")) + _chunk(LABEL.encode(), text)
    return b"RIFF" + struct.pack("<I", _UNKNOWN) + b"WAVE" + chunks + b"data" + struct.pack("<I", _UNKNOWN)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def fill_wav_lengths(file: BinaryIO) -> None:
    """Fills in the lengths of a WAV file that was made as a stream. The file is open for reading and writing."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(_MOST_HEADER_BYTES)
    start = head.index(b"data" + struct.pack("<I", _UNKNOWN)) + 8
    for place, length in ((4, size - 8), (start - 4, size - start)):
        file.seek(place)
        file.write(struct.pack("<I", min(length, _UNKNOWN)))


class _Sink(io.RawIOBase):
    """The target of a muxer: it cannot go back, so it gets a stream."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        found = b"".join(self._pieces)
        self._pieces.clear()
        return found


class _Coded:
    """A codec and a container of FFmpeg."""

    def __init__(self, format: SpeechFormat, label: str) -> None:
        import av

        container, codec, rate, bits = _CODED[format]
        self._sink = _Sink()
        options = {"write_id3v2": "1"} if format == "aac" and label else {}
        options |= {"write_xing": "0", "id3v2_version": "3"} if format == "mp3" else {}
        options |= {"page_duration": "200000"} if format == "opus" else {}
        self._container: Any = av.open(self._sink, "w", format=container, options=options)
        if label:
            self._container.metadata[LABEL] = label
        self._stream: Any = self._container.add_stream(codec, rate=rate)
        self._stream.layout = "mono"
        if format == "opus" and label:  # Ogg keeps comments of the stream
            self._stream.metadata[LABEL] = label
        if bits:
            self._stream.bit_rate = bits
        self._given = 0

    def add(self, samples: NDArray[np.int16]) -> bytes:
        import av

        if len(samples):
            frame: Any = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            frame.pts = self._given
            self._given += len(samples)
            self._mux(frame)
        return self._sink.taken()

    def end(self) -> bytes:
        self._mux(None)
        self._container.close()
        return self._sink.taken()

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

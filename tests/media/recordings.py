"""Recordings for tests: speech, tones in every container, and files that are made to do harm."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
TONE, WEATHER = DATA / "tone.flac", DATA / "weather.flac"
SAID = {TONE: "Please leave your message after the tone.", WEATHER: "The weather in London is cold today."}


def tone(seconds: float, rate: int = 16_000) -> NDArray[np.int16]:
    """Returns a tone of 440 Hz."""
    return (np.sin(np.arange(int(seconds * rate)) * 2 * np.pi * 440 / rate) * 8000).astype(np.int16)


def wav(samples: NDArray[np.int16], rate: int = 16_000, channels: int = 1) -> bytes:
    """Returns 16 bit samples as a WAV file."""
    return wav_header(samples.nbytes, rate, channels) + samples.tobytes()


def wav_header(
    data_bytes: int, rate: int = 16_000, channels: int = 1, bits: int = 16, kind: int = 1
) -> bytes:
    """Returns the header of a WAV file; `kind` 3 is for floats."""
    block = channels * bits // 8
    fmt = struct.pack(
        "<HHIIHH", kind, channels & 0xFFFF, rate, rate * block & 0xFFFFFFFF, block & 0xFFFF, bits
    )
    size = min(data_bytes, 0xFFFFFFFF)
    riff = b"RIFF" + struct.pack("<I", min(size + 36, 0xFFFFFFFF)) + b"WAVE"
    return riff + b"fmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", size)


def encoded(samples: NDArray[np.int16], container: str, codec: str, rate: int = 48_000) -> bytes:
    """Returns mono samples of a rate in a container."""
    target = io.BytesIO()
    with av.open(target, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate
        frame.pts = 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    return target.getvalue()


def hostile(beside: Path) -> Iterator[tuple[str, bytes]]:
    """Yields the names and bytes of files that no decoder should be hurt by.

    Args:
        beside: a sound recording that some of them refer to.
    """
    sound = tone(2)
    whole = wav(sound)
    yield "empty.wav", b""
    yield "one-byte.wav", b"R"
    yield "zeros.wav", bytes(100_000)
    yield "random.mp3", np.random.default_rng(1).bytes(100_000)
    yield "text.wav", b"this is no sound at all\n" * 100
    yield "html.mp3", b"<html><body>404</body></html>"
    yield "elf.wav", Path("/proc/self/exe").read_bytes()[:200_000]
    yield "header-alone.wav", whole[:44]
    yield "half-a-header.wav", whole[:30]
    yield "claims-4-gb.wav", wav_header(0xFFFFFFFF) + sound.tobytes()[:32_000]
    yield "claims-nothing.wav", wav_header(0) + sound.tobytes()
    yield "rate-0.wav", wav_header(sound.nbytes, rate=0) + sound.tobytes()
    yield "rate-1.wav", wav_header(sound.nbytes, rate=1) + sound.tobytes()
    yield "rate-2-billion.wav", wav_header(sound.nbytes, rate=0x7FFFFFFF) + sound.tobytes()
    yield "channels-0.wav", wav_header(sound.nbytes, channels=0) + sound.tobytes()
    yield "channels-65535.wav", wav_header(sound.nbytes, channels=65535) + sound.tobytes()
    yield "bits-0.wav", wav_header(sound.nbytes, bits=0) + sound.tobytes()
    yield "bits-255.wav", wav_header(sound.nbytes, bits=255) + sound.tobytes()
    yield "unknown-codec.wav", wav_header(sound.nbytes, kind=0x7777) + sound.tobytes()
    yield "nan.wav", wav_header(64_000, bits=32, kind=3) + np.full(16_000, np.nan, np.float32).tobytes()
    yield "infinite.wav", wav_header(64_000, bits=32, kind=3) + np.full(16_000, np.inf, np.float32).tobytes()
    yield "loud.wav", wav_header(64_000, bits=32, kind=3) + np.full(16_000, 1e30, np.float32).tobytes()
    yield "zip-bomb.wav", _zip_bomb()
    yield "gzip-bomb.wav", gzip.compress(bytes(64 << 20))
    yield "gzip.wav", gzip.compress(whole)
    silence = encoded(np.zeros(48_000 * 60, np.int16), "ogg", "libopus")
    yield "endless.opus", silence * 200  # 200 minutes in few bytes
    yield "endless.wav", wav_header(1 << 30, rate=4000) + bytes(40 << 20)
    mp3 = encoded(tone(2, 48_000), "mp3", "libmp3lame")
    yield "half.mp3", mp3[: len(mp3) // 2]
    yield "cut-in-a-frame.mp3", mp3[:-100]
    yield "holes.mp3", _with_holes(mp3)
    m4a = encoded(tone(2, 48_000), "mp4", "aac")
    yield "half.m4a", m4a[: len(m4a) // 2]
    yield "no-index.m4a", m4a.replace(b"moov", b"free")
    yield "boxes.m4a", b"\0\0\0\x08ftyp" * 10_000
    yield "huge-box.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0" + b"\0\0\0\x01moov" + b"\xff" * 8 + bytes(1000)
    flac = encoded(tone(2, 48_000), "flac", "flac")
    yield "half.flac", flac[: len(flac) // 2]
    yield "holes.flac", _with_holes(flac)
    yield "lies-about-samples.flac", flac[:21] + b"\x0f\xff\xff\xff\xff" + flac[26:]
    webm = encoded(tone(2, 48_000), "webm", "libopus")
    yield "half.webm", webm[: len(webm) // 2]
    yield "nested.webm", webm[:40] + b"\x1a\x45\xdf\xa3" * 5000
    yield "picture.png", b"\x89PNG\r\n\x1a\n" + bytes(1000)
    yield (
        "playlist.m3u8",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{beside}\n#EXT-X-ENDLIST\n".encode(),
    )
    yield (
        "web.m3u8",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
    )
    yield "playlist.m3u", f"{beside}\n".encode()
    yield "concat.txt", f"ffconcat version 1.0\nfile '{beside}'\n".encode()
    yield "concat-of-passwords.wav", b"ffconcat version 1.0\nfile file:/etc/passwd\n"
    yield "subfile.wav", f"ffconcat version 1.0\nfile subfile,,start,0,end,9,,:{beside}\n".encode()
    yield "dash.mpd", _dash(beside)
    yield (
        "session.sdp",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n",
    )
    yield "script.avs", f'DirectShowSource("{beside}")\n'.encode()
    yield "midi.mid", b"MThd\0\0\0\x06\0\0\0\x01\0\x60MTrk\0\0\0\x04\0\xff\x2f\0"


def _zip_bomb() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(64 << 20))
    return target.getvalue()


def _with_holes(data: bytes) -> bytes:
    """Returns data in which every second kilobyte is noise."""
    noise = np.random.default_rng(2)
    blocks = [data[at : at + 1024] for at in range(0, len(data), 1024)]
    return b"".join(noise.bytes(len(one)) if number % 2 else one for number, one in enumerate(blocks))


def _dash(beside: Path) -> bytes:
    return f"""<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT5S"><Period><AdaptationSet
mimeType="audio/wav"><Representation id="1" bandwidth="1000"><BaseURL>file://{beside}</BaseURL></Representation>
</AdaptationSet></Period></MPD>""".encode()

"""Images and recordings that mean harm: 100 files, each of a named kind, to show that every one is refused or read.

    for name, data in hostile_images() + hostile_sounds(): ...

Bombs, cut files, sizes that lie, polyglots, scripts, loops, junk in metadata, playlists. A file stays below 50 MB; its cost
to the reader does not.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from typing import Any, Final

__all__ = ["HostileFile", "hostile_images", "hostile_sounds"]

HostileFile = tuple[str, bytes]
"""A name, whose ending is that of the format which it claims to be, and the bytes."""

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_END: Final = 0xFFFFFFFF


def hostile_images() -> list[HostileFile]:
    """Returns 70 images."""
    return [*_png_sizes(), *_png_chunks(), *_jpegs(), *_webps(), *_gifs(), *_no_images()]


def hostile_sounds() -> list[HostileFile]:
    """Returns 30 recordings."""
    return [*_waves(), *_coded(), *_containers(), *_lists()]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _head(width: int, height: int, *, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def _png(head: bytes, data: bytes = b"", before: bytes = b"", after: bytes = b"") -> bytes:
    return _PNG + head + before + _chunk(b"IDAT", data) + _chunk(b"IEND", b"") + after


def _zeros(count: int) -> bytes:
    """Returns `count` zero bytes, compressed."""
    packer, pieces, block = zlib.compressobj(9), list[bytes](), bytes(1 << 20)
    for _ in range(count >> 20):
        pieces.append(packer.compress(block))
    return b"".join([*pieces, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def _picture(side: int = 96) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.random.default_rng(side).integers(0, 255, (side, side, 3)).astype(np.uint8))


def _saved(image: Any, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _png_sizes() -> list[HostileFile]:
    plain = _zeros(96 * (96 * 3 + 1))
    return [
        ("empty.png", b""),
        ("one-byte.png", b"\x89"),
        ("signature-alone.png", _PNG),
        ("no-pixels.png", _png(_head(96, 96))),
        ("bomb-65000.png", _png(_head(65000, 65000), plain)),
        ("bomb-largest.png", _png(_head(2**31 - 1, 2**31 - 1), plain)),
        ("no-width.png", _png(_head(0, 96), plain)),
        ("no-height.png", _png(_head(96, 0), plain)),
        (
            "bomb-one-bit.png",
            _png(_head(20000, 20000, depth=1, colour=0), _zeros(20000 * 2501)),
        ),
        ("as-large-as-allowed.png", _png(_head(6300, 6300, colour=6), _zeros(6300 * (6300 * 4 + 1)))),
        (
            "as-large-in-16-bits.png",
            _png(_head(6300, 6300, depth=16, colour=6), _zeros(6300 * (6300 * 8 + 1))),
        ),
        ("one-wide.png", _png(_head(1, 39_000_000, colour=0), _zeros(2 * 39_000_000))),
        ("one-high.png", _png(_head(39_000_000, 1, colour=0), _zeros(39_000_001))),
        (
            "interlaced.png",
            _png(_head(6300, 6300, interlaced=1), _zeros(6300 * (6300 * 3 + 1))),
        ),
        ("depth-3.png", _png(_head(96, 96, depth=3), plain)),
        ("colour-7.png", _png(_head(96, 96, colour=7), plain)),
    ]


def _png_chunks() -> list[HostileFile]:
    head, plain = _head(96, 96), _zeros(96 * (96 * 3 + 1))
    whole = _saved(_picture(), "PNG")
    bomb = _zeros(200 << 20)
    return [
        ("cut.png", whole[: len(whole) // 2]),
        ("checksum.png", whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]),
        ("huge-chunk.png", _PNG + head + struct.pack(">I", 0xFFFFFFF0) + b"IDAT" + plain),
        ("text-bomb.png", _png(head, plain, _chunk(b"zTXt", b"a\0\0" + bomb))),
        ("international-text-bomb.png", _png(head, plain, _chunk(b"iTXt", b"a\0\1\0\0\0" + bomb))),
        ("profile-bomb.png", _png(head, plain, _chunk(b"iCCP", b"a\0\0" + bomb))),
        ("texts.png", _png(head, plain, _chunk(b"tEXt", b"a\0b") * 50_000)),
        ("too-many-pixels.png", _png(head, bomb)),
        ("no-deflate.png", _png(head, b"\xde\xad\xbe\xef" * 100)),
        ("no-palette.png", _png(_head(96, 96, colour=3), _zeros(96 * 97))),
        (
            "palette-index.png",
            _png(
                _head(96, 96, colour=3),
                zlib.compress(b"\0" + b"\xff" * 96) * 96,
                _chunk(b"PLTE", b"\0\0\0"),
            ),
        ),
        ("frames.png", _png(head, plain, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))),
        ("exif-junk.png", _png(head, plain, _chunk(b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 4096))),
        ("polyglot-zip.png", _png(head, plain, after=b"PK\x03\x04<script>alert(1)</script>" + bytes(4096))),
        ("empty-chunks.png", _PNG + head + _chunk(b"IDAT", b"") * 500_000 + _chunk(b"IEND", b"")),
        ("two-heads.png", _PNG + head + _head(60000, 60000) + _chunk(b"IDAT", plain) + _chunk(b"IEND", b"")),
    ]


def _segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def _jpegs() -> list[HostileFile]:
    whole = _saved(_picture(), "JPEG")
    start, rest = whole[:2], whole[2:]
    size = whole.index(b"\xff\xc0") + 5  # height and width in the frame header
    progressive = _saved(_picture(1500), "JPEG", progressive=True, quality=95)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    loop = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08"
    turned = b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0"
    return [
        ("start-alone.jpg", b"\xff\xd8"),
        ("cut.jpg", whole[: len(whole) // 2]),
        ("bomb.jpg", whole[:size] + struct.pack(">HH", 65500, 65500) + whole[size + 4 :]),
        ("no-width.jpg", whole[:size] + struct.pack(">HH", 96, 0) + whole[size + 4 :]),
        ("scans.jpg", progressive[:-2] + scan * (30_000_000 // max(len(scan), 1)) + b"\xff\xd9"),
        ("no-huffman.jpg", start + _segment(0xC4, b"\xff" * 200) + rest),
        ("exif-loop.jpg", start + _segment(0xE1, loop) + rest),
        ("exif-turned-99.jpg", start + _segment(0xE1, turned) + rest),
        ("exif-junk.jpg", start + _segment(0xE1, b"Exif\0\0" + bytes(range(256)) * 250) + rest),
        ("profile-junk.jpg", start + _segment(0xE2, b"ICC_PROFILE\0\xff\x01" + b"\xff" * 60000) + rest),
        ("segments.jpg", start + _segment(0xE0, b"JFIF\0") * 50_000 + rest),
        ("polyglot-script.jpg", start + _segment(0xFE, b"*/=1;alert(1)/*") + rest + b"*/"),
        ("padding.jpg", start + b"\xff" * (5 << 20) + rest),
        ("many-frames.jpg", start + _segment(0xE2, b"MPF\0MM\0*\0\0\0\x08" + b"\xff" * 400) + rest),
    ]


def _riff(kind: bytes, *chunks: tuple[bytes, bytes], size: int | None = None) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4 if size is None else size) + kind + body


def _webps() -> list[HostileFile]:
    whole = _saved(_picture(), "WEBP")
    largest = b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383)
    canvas = b"\x12\0\0\0" + b"\xff" * 6
    return [
        ("cut.webp", whole[: len(whole) // 2]),
        ("bomb.webp", _riff(b"WEBP", (b"VP8 ", largest + bytes(64)))),
        ("canvas.webp", _riff(b"WEBP", (b"VP8X", canvas), (b"ANIM", b"\0" * 6), (b"ANMF", b"\xff" * 64))),
        ("size-lies.webp", whole[:4] + struct.pack("<I", _END) + whole[8:]),
        ("lossless-junk.webp", _riff(b"WEBP", (b"VP8L", b"\x2f" + b"\xff" * 256))),
        ("metadata.webp", _riff(b"WEBP", *[(b"EXIF", b"\xff" * 64)] * 50_000)),
    ]


def _gifs() -> list[HostileFile]:
    from PIL import Image

    whole = _saved(_picture(), "GIF")
    frames = [Image.new("P", (64, 64), number % 250) for number in range(2000)]
    endless = _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0)
    screen = b"GIF89a" + struct.pack("<HH", 96, 96) + b"\xf0\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHH", 0, 0, 96, 96) + b"\0\x02"
    return [
        ("cut.gif", whole[: len(whole) // 2]),
        ("endless-loop.gif", endless),
        ("endless-codes.gif", screen + frame + (b"\xff" + b"\x24" * 255) * 80_000),
        ("bomb.gif", b"GIF89a" + struct.pack("<HH", 65535, 65535) + screen[10:] + frame + b"\x01\x44\0;"),
        ("frame-outside.gif", screen + b"," + struct.pack("<HHHH", 60000, 60000, 5500, 5500) + b"\0\x02\0;"),
        ("no-size.gif", screen[:6] + bytes(4) + screen[10:] + b"," + bytes(8) + b"\0\x02\0;"),
        ("comment.gif", screen + b"!\xfe" + (b"\xff" + b"a" * 255) * 40_000 + b"\0" + whole[13:]),
        ("polyglot-archive.gif", whole + b"PK\x05\x06" + bytes(18)),
    ]


def _no_images() -> list[HostileFile]:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("http://127.0.0.1/")</script></svg>'
    laughs = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'
    return [
        ("script.svg", svg),
        ("script-named.png", svg),
        ("entities.svg", b"\xef\xbb\xbf" + laughs),
        ("packed.svgz", gzip.compress(svg)),
        ("page.png", b"<!DOCTYPE html><img src=x onerror=alert(1)>"),
        ("document.png", b"%PDF-1.7\n1 0 obj<</OpenAction<</S/JavaScript>>>>"),
        ("program.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n{1} loop\n"),
        ("bomb.tiff", b"II*\0\x08\0\0\0\2\0\0\1\4\0\1\0\0\0\xff\xff\xff\x7f\1\1\4\0\1\0\0\0\xff\xff\xff\x7f"),
        (
            "bomb.bmp",
            b"BM" + struct.pack("<IIIIiiHHI", 99, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0) + bytes(64),
        ),
        ("bomb.ppm", b"P6 99999 99999 255\n" + bytes(64)),
    ]


def _wave(
    rate: int = 16_000, channels: int = 1, *, bits: int = 16, form: int = 1, data: bytes, size: int = -1
) -> bytes:
    align = channels * bits // 8
    fields = struct.pack("<HHIIHH", form, channels & 0xFFFF, rate, rate * align & _END, align & 0xFFFF, bits)
    body = b"fmt " + struct.pack("<I", len(fields)) + fields
    length = len(data) if size < 0 else size
    return b"RIFF" + struct.pack("<I", _END) + b"WAVE" + body + b"data" + struct.pack("<I", length) + data


def _tone(seconds: float = 1.0) -> Any:
    import numpy as np

    times = np.arange(int(24_000 * seconds)) / 24_000
    return (np.sin(2 * np.pi * 440 * times) * 8000).astype(np.int16)


def _waves() -> list[HostileFile]:
    second = bytes(32_000)
    return [
        ("empty.wav", b""),
        ("header-alone.wav", _wave(data=b"")),
        ("endless.wav", _wave(data=second, size=_END)),
        ("declared-huge.wav", _wave(data=second, size=2**31 - 8)),
        ("no-rate.wav", _wave(0, data=second)),
        ("channels.wav", _wave(channels=65535, data=second)),
        ("no-bits.wav", _wave(bits=0, data=second)),
        ("no-numbers.wav", _wave(bits=32, form=3, data=b"\xff\xff\xff\x7f" * 16_000)),
        ("hours.wav", _wave(4000, bits=8, data=b"\x80" * (4000 * 3 * 3600))),
        ("odd-rate.wav", _wave(2**31 - 1, data=second)),
    ]


def _sound(format: Any) -> bytes:
    from deepwell.media.speech.encode import encoder_of

    encoder = encoder_of(format, "")
    return encoder.add(_tone()) + encoder.end()


def _coded() -> list[HostileFile]:
    mp3, ogg, flac, aac = (_sound(one) for one in ("mp3", "opus", "flac", "aac"))
    page = ogg.index(b"OggS", 4)
    return [
        ("cut.mp3", mp3[: len(mp3) // 3]),
        ("tag-lies.mp3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + mp3),
        ("junk.mp3", b"\xff\xfb\x90\x64" + bytes(range(256)) * 4000),
        ("cut.ogg", ogg[: len(ogg) // 2]),
        ("checksum.ogg", ogg[: page + 22] + b"\xff\xff\xff\xff" + ogg[page + 26 :]),
        ("clock.ogg", ogg[: page + 6] + b"\xff" * 7 + b"\x7f" + ogg[page + 14 :]),
        ("samples-lie.flac", flac[:21] + b"\x0f\xff\xff\xff\xff" + flac[26:]),
        ("cut.aac", aac[:400] + b"\xff\xf1" * 2000),
    ]


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body) + 8) + kind + body


def _containers() -> list[HostileFile]:
    head = _box(b"ftyp", b"M4A \0\0\0\0M4A isom")
    nested = b""
    for _ in range(3000):
        nested = _box(b"moov", nested)
    return [
        ("cut.mp4", head + struct.pack(">I", 1 << 20) + b"moov" + bytes(100)),
        ("nested.mp4", head + nested),
        ("no-length.mp4", head + struct.pack(">I", 0) + b"moov" + bytes(4096)),
        ("samples.mp4", head + _box(b"moov", _box(b"trak", _box(b"stsz", bytes(8) + b"\xff" * 4)))),
        ("endless.mkv", b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(4096)),
    ]


def _lists() -> list[HostileFile]:
    return [
        ("local.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("remote.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:1/a.ts\n"),
        ("list.ffconcat", b"ffconcat version 1.0\nfile /etc/passwd\nfile /dev/zero\n"),
        ("session.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"),
        ("list.pls", b"[playlist]\nFile1=/dev/zero\nLength1=-1\n"),
        ("manifest.mpd", b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/</BaseURL></MPD>'),
        ("zeros.mp3", bytes(5 << 20)),
    ]

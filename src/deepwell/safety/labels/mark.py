"""`with_corner_mark`: the mark that people see in a generated image."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidFile, UnsupportedFile
from deepwell.safety.labels.image import SIGNATURE, chunk, chunks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["with_corner_mark"]

# The words "AI生成" in 12 rows: the standard asks for these two words in any legible form.
_GLYPHS: Final = """
..##.....###...........#..............#.#...
..##......#.........#..#..............#..#..
.#..#.....#.........#..#.........##########.
.#..#.....#........##########....#.....#....
.#..#.....#........#...#.........#.....#....
#....#....#.......#....#.........####..#.#..
######....#.........########.....#..#..#.#..
#....#....#............#.........#..#...#...
#....#....#............#.........#..#..##..#
#....#....#............#.........#.##.#..#.#
#....#...###......############..#.........##
............................................
"""
_CHANNELS: Final = {
    0: 1,
    2: 3,
    4: 2,
    6: 4,
}  # colour types of PNG with 8 bits: grey, RGB, grey and RGB with alpha
_LEAST_SHARE: Final = 0.05  # height of the letters over the shortest side (GB 45438-2025)
_MOST_PIXELS: Final = 64 << 20


def with_corner_mark(data: bytes) -> bytes:
    """Returns a PNG image with "AI生成" in its lower right corner, the letters a twentieth of the shortest side high or more.

    Raises:
        InvalidFile: the data are no whole PNG file, or the image is too small to bear the mark.
        UnsupportedFile: the image has a palette, 16 bits or interlacing.
    """
    import numpy as np

    parts = list(chunks(data))
    if not parts or parts[0][0] != b"IHDR" or len(parts[0][1]) != 13:
        raise InvalidFile("the PNG file has no header")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    channels = _CHANNELS.get(colour)
    if depth != 8 or channels is None or interlaced or width * height > _MOST_PIXELS:
        raise UnsupportedFile(
            "only plain PNG images of 8 bits, without palette and interlacing, can be marked",
            fix="write the image as 8-bit RGB",
        )
    packed = b"".join(body for kind, body in parts if kind == b"IDAT")
    pixels = _unfiltered(packed, width, height, channels)
    letters = np.array([[letter == "#" for letter in row] for row in _GLYPHS.split()])
    rows = letters.any(axis=1).sum()
    scale = max(1, int(np.ceil(_LEAST_SHARE * min(width, height) / rows)))
    letters = np.pad(letters.repeat(scale, axis=0).repeat(scale, axis=1), scale * 2)
    if letters.shape[0] > height or letters.shape[1] > width:
        raise InvalidFile(f"an image of {width}x{height} is too small to bear the mark")
    corner = pixels[-letters.shape[0] :, -letters.shape[1] :]
    seen = channels - (channels in (2, 4))
    corner[..., :seen] = np.where(letters[..., None], 255, 0)
    if seen < channels:
        corner[..., seen] = 255
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], axis=1)
    body = zlib.compress(lines.tobytes())
    pieces = [SIGNATURE]
    written = False
    for kind, old in parts:
        if kind != b"IDAT":
            pieces.append(chunk(kind, old))
        elif not written:
            written = True
            pieces.append(chunk(kind, body))
    return b"".join(pieces)


def _unfiltered(packed: bytes, width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Returns pixels of shape [height, width, channels] (PNG specification, section 9)."""
    import numpy as np

    stride = width * channels
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(packed, height * (stride + 1))
    except zlib.error as error:
        raise InvalidFile(f"the PNG file is damaged: {error}") from None
    if len(raw) != height * (stride + 1):
        raise InvalidFile("the PNG file has too few pixels")
    lines = np.frombuffer(raw, np.uint8).reshape(height, stride + 1)
    out = np.zeros((height, stride), np.uint8)
    above: Any = np.zeros(stride, np.uint8)
    for number in range(height):
        kind, line = int(lines[number, 0]), lines[number, 1:].copy()
        if kind == 2:
            line += above
        elif kind == 1:
            line = np.add.accumulate(line.reshape(width, channels), axis=0, dtype=np.uint8).reshape(stride)
        elif kind in (3, 4):
            line = _by_pixel(kind, line, above, channels)
        elif kind:
            raise InvalidFile("the PNG file has an unknown filter")
        out[number] = above = line
    return out.reshape(height, width, channels)


def _by_pixel(kind: int, line: Any, above: Any, channels: int) -> Any:
    """Undoes the filters that look at the pixel before: the average (3) and Paeth's (4)."""
    import numpy as np

    values, up = line.tolist(), above.tolist()
    for at, value in enumerate(values):
        left = values[at - channels] if at >= channels else 0
        corner = up[at - channels] if at >= channels else 0
        if kind == 3:
            guess = (left + up[at]) // 2
        else:
            near = left + up[at] - corner
            guess = min((left, up[at], corner), key=lambda one, near=near: abs(near - one))
        values[at] = (value + guess) & 255
    return np.array(values, np.uint8)

"""Labels of generated images: the words "AI生成" in a corner, and the metadata that programs read (GB 45438-2025).

`mark.png` holds the words, once rendered from Noto Sans CJK SC Bold, so that no font is needed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import quoteattr

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LABEL", "marked", "png_text", "xmp"]

LABEL: Final = "AIGC"
"""Name of the metadata field that says that an image was generated (GB 45438-2025, annex E)."""

_MARK: Final = Path(__file__).with_name("mark.png")
_SHARE: Final = 0.055  # height of the words over the shortest side: the standard asks for a twentieth
_LEAST_HEIGHT: Final = 14  # pixels, below which the characters blur
_SHADE: Final = 0.55  # opacity of the black behind the words
_NAMESPACE: Final = "http://www.tc260.org.cn/ns/AIGC/1.0/"


def marked(image: Image) -> Image:
    """Returns an RGB image with "AI生成" in its lower right corner, white on a dark ground."""
    from PIL import Image as Images

    words = _words()
    height = max(_LEAST_HEIGHT, -(-int(min(image.size) * _SHARE * 64) // 64))
    width = round(words.width * height / words.height)
    words = words.resize((width, height), Images.Resampling.LANCZOS)
    edge = max(2, height // 4)
    box = width + 2 * edge, height + 2 * edge
    place = image.width - box[0], image.height - box[1]
    found = image.copy()
    found.paste((0, 0, 0), (*place, *image.size), Images.new("L", box, round(255 * _SHADE)))
    found.paste((255, 255, 255), (place[0] + edge, place[1] + edge), words)
    return found


@cache
def _words() -> Image:
    from PIL import Image as Images

    with Images.open(_MARK, formats=("PNG",)) as file:
        return file.convert("L")


def png_text(label: str) -> Any:
    """Returns the text chunks of a PNG file for Pillow: the label as the field `AIGC`, and as XMP."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    chunks.add_text(LABEL, label)
    chunks.add_itxt("XML:com.adobe.xmp", xmp(label).decode())
    return chunks


def xmp(label: str) -> bytes:
    """Returns the label as a packet of XMP (ISO 16684-1), in the namespace of the standard's committee."""
    inner = label.removeprefix('{"AIGC": ').removesuffix("}") if label.startswith('{"AIGC": ') else label
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:TC260="{_NAMESPACE}" TC260:{LABEL}={quoteattr(inner)}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()

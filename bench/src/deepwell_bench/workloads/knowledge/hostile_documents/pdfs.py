"""PDF files that mean harm: trees without end, streams that unpack to much, pages of absurd sizes, noise."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence

__all__ = ["hostile_pdfs", "pdf_of"]

_FONT = b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
_CATALOG = b"<< /Type /Catalog /Pages 2 0 R >>"
_PAGES = b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>"


def pdf_of(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """Returns a PDF of these objects, of which the first is the catalog, with a right table of their places."""
    out = bytearray(b"%PDF-1.4\n")
    offsets: list[int] = []
    for number, one in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    out += b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF" % (size, trailer, table)
    return bytes(out)


def _stream(data: bytes, extra: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(data), extra, data)


def _page(
    content: bytes, *, box: bytes = b"[0 0 612 792]", more: bytes = b"", resources: bytes = _FONT
) -> bytes:
    """Returns a file of one page whose content is object 4."""
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Contents 4 0 R /Resources %s %s >>" % (
        box,
        resources,
        more,
    )
    return pdf_of([_CATALOG, _PAGES, page, content])


def _text(words: bytes) -> bytes:
    return _stream(b"BT /F1 12 Tf 72 720 Td (%s) Tj ET" % words)


def _packed(piece: bytes, pieces: int, times: int = 1) -> bytes:
    """Returns a stream of `piece` again and again, packed `times` times."""
    packer = zlib.compressobj(6)
    data = b"".join(packer.compress(piece) for _ in range(pieces)) + packer.flush()
    for _ in range(times - 1):
        data = zlib.compress(data, 9)
    return _stream(data, b"/Filter [%s]" % (b"/FlateDecode " * times))


def hostile_pdfs(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yields names and bytes."""
    yield from _trees()
    yield from _streams()
    yield from _pages()
    sound = _page(_text(b"Words of a page"))
    for cut in (9, 60, 200, len(sound) - 5):
        yield f"cut-{cut}", sound[:cut]
    yield "header-alone", b"%PDF-1.7\n"
    yield "noise", b"%PDF-1.7\n" + draw.randbytes(100_000)
    yield "late-header", b"x" * 900 + sound
    yield "table-lies", sound.replace(b"00000 n", b"00001 n").replace(b"0000000", b"9999999")
    yield "no-end", sound.rpartition(b"startxref")[0]
    yield "start-of-table-far", sound.rpartition(b"startxref")[0] + b"startxref\n99999999999999999999\n%%EOF"
    yield "previous-table-is-itself", pdf_of([_CATALOG, _PAGES], b"/Prev 9")
    yield (
        "encrypted",
        pdf_of([_CATALOG, _PAGES], b"/Encrypt << /Filter /Standard /V 1 /R 2 /O (x) /U (y) /P -4 >>"),
    )
    yield (
        "encrypted-oddly",
        pdf_of([_CATALOG, _PAGES], b"/Encrypt << /Filter /None /V 99 /Length 1000000000 >>"),
    )
    for number in range(12):
        data = bytearray(sound)
        for _ in range(draw.randrange(1, 20)):
            data[draw.randrange(9, len(data))] = draw.randrange(256)
        yield f"damaged-{number}", bytes(data)


def _trees() -> Iterator[tuple[str, bytes]]:
    yield "tree-of-itself", pdf_of([_CATALOG, b"<< /Type /Pages /Kids [2 0 R 2 0 R] /Count 1000000 >>"])
    yield "million-pages-said", pdf_of([_CATALOG, b"<< /Type /Pages /Kids [] /Count 1000000 >>"])
    yield (
        "negative-count",
        pdf_of([_CATALOG, b"<< /Type /Pages /Kids [3 0 R] /Count -1 >>", b"<< /Type /Page >>"]),
    )
    kids = b"3 0 R " * 150_000
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>"
    yield "many-pages", pdf_of([_CATALOG, b"<< /Type /Pages /Kids [%s] /Count 150000 >>" % kids, page])
    levels = [
        b"<< /Type /Pages /Kids [%s] /Count 1000000 >>" % (b"%d 0 R " % (number + 3) * 10)
        for number in range(6)
    ]
    yield "pages-by-powers-of-ten", pdf_of([_CATALOG, *levels, page])
    chain = [b"<< /Type /Pages /Kids [%d 0 R] /Count 1 >>" % (number + 3) for number in range(5_000)]
    yield "deep-tree", pdf_of([_CATALOG, *chain, page])
    yield "deep-array", pdf_of([_CATALOG, b"<< /Type /Pages /Kids " + b"[" * 200_000])
    yield "deep-dictionary", pdf_of([_CATALOG, b"<< /Type /Pages /Kids " + b"<< /A " * 200_000])
    yield "reference-to-itself", pdf_of([b"1 0 R", b"2 0 R"])
    yield "no-pages", pdf_of([b"<< /Type /Catalog >>"])
    mark = b"<< /Title (%s) /Parent 3 0 R /Next 4 0 R /First 4 0 R /Dest [5 0 R /Fit] >>" % (b"t" * 100_000)
    outline = b"<< /First 4 0 R /Last 4 0 R /Count 99999999 >>"
    catalog = b"<< /Type /Catalog /Pages 2 0 R /Outlines 3 0 R >>"
    tree = b"<< /Type /Pages /Kids [5 0 R] /Count 1 >>"
    yield "outline-without-end", pdf_of([catalog, tree, outline, mark, page])
    marks = [b"<< /Title (x) /Next %d 0 R /Dest [3 0 R /Fit] >>" % (number + 6) for number in range(20_000)]
    first = b"<< /First 5 0 R /Count 20000 >>"
    catalog = b"<< /Type /Catalog /Pages 2 0 R /Outlines 4 0 R >>"
    yield "long-outline", pdf_of([catalog, _PAGES, page, first, *marks])


def _streams() -> Iterator[tuple[str, bytes]]:
    yield "stream-unpacks-to-1-gb", _page(_packed(b"0 0 m " * 170_000, 1_000))
    yield "text-unpacks-to-300-mb", _page(_packed(b"BT /F1 9 Tf " + b"(words ) Tj " * 80_000 + b"ET ", 300))
    yield "packed-five-times", _page(_packed(bytes(1 << 20), 100, 5))
    yield "filters-without-end", _page(_stream(b"x", b"/Filter [%s]" % (b"/ASCIIHexDecode " * 50_000)))
    yield "run-length", _page(_stream(b"\x81 " * 100_000, b"/Filter /RunLengthDecode"))
    yield "lzw", _page(_stream(bytes(range(256)) * 100, b"/Filter /LZWDecode"))
    yield "length-lies", _page(b"<< /Length 99999999999 >>\nstream\nBT ET\nendstream")
    yield "length-negative", _page(b"<< /Length -5 >>\nstream\nBT ET\nendstream")
    yield "length-is-itself", _page(b"<< /Length 4 0 R >>\nstream\nBT ET\nendstream")
    yield (
        "predictor",
        _page(
            _stream(
                zlib.compress(bytes(1000)),
                b"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Columns 2147483647 >>",
            )
        ),
    )


def _pages() -> Iterator[tuple[str, bytes]]:
    yield "pushes-without-end", _page(_stream(b"q " * 500_000))
    yield "operands-without-end", _page(_stream(b"1 " * 500_000 + b"re"))
    yield "array-in-content", _page(_stream(b"[" * 300_000 + b"TJ"))
    yield "million-words", _page(_stream(b"BT /F1 9 Tf " + b"(w) Tj 1 0 Td " * 100_000 + b"ET"))
    yield "text-on-one-place", _page(_stream(b"BT /F1 9 Tf " + b"(words) Tj 0 0 Td " * 50_000 + b"ET"))
    yield "font-size", _page(_stream(b"BT /F1 1e38 Tf (x) Tj ET"))
    for name, box in (
        ("huge", b"[0 0 1e30 1e30]"),
        ("empty", b"[0 0 0 0]"),
        ("negative", b"[900 900 -900 -900]"),
        ("no-numbers", b"[/a (b) null]"),
        ("wrong-type", b"(box)"),
    ):
        yield f"box-{name}", _page(_text(b"Words"), box=box)
    picture = b"q 600 0 0 700 0 0 cm BI /W 100000 /H 100000 /CS /RGB /BPC 8 ID x EI Q"
    yield "picture-of-30-gb", _page(_stream(picture), box=b"[0 0 20000 20000]")
    form = b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 4 0 R >> >>"
    inner = b"<< /XObject << /X 4 0 R >> >>"
    yield "form-of-itself", _page(_stream(b"/X Do /X Do", form), resources=inner)
    names = range(4, 14)
    forms = [
        _stream(
            b"/X Do " * 10,
            b"/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X %d 0 R >> >>"
            % (n + 1),
        )
        for n in names
    ]
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R /Resources << /XObject << /X 5 0 R >> >> >>"
    yield "forms-by-powers-of-ten", pdf_of([_CATALOG, _PAGES, page, *forms, _text(b"x")])
    yield "script", _page(_text(b"Words"), more=b"/AA << /O << /S /JavaScript /JS (while(1);) >> >>")
    yield "launch", _page(_text(b"Words"), more=b"/AA << /O << /S /Launch /F (/bin/sh) >> >>")
    wide = b"<< /Font << /F1 << /Type /Font /Subtype /TrueType /FirstChar 0 /LastChar 2147483647 /Widths [%s] >> >> >>"
    yield "font-of-many-widths", _page(_text(b"Words"), resources=wide % (b"9 " * 100_000))
    mapping = _stream(b"begincmap 1 beginbfrange <0000> <FFFFFFFF> <0041> endbfrange endcmap")
    font = b"<< /Font << /F1 << /Type /Font /Subtype /Type0 /ToUnicode 5 0 R /Encoding /Identity-H >> >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R /Resources %s >>" % font
    yield "mapping-of-everything", pdf_of([_CATALOG, _PAGES, page, _text(b"Words"), mapping])

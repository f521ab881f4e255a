"""DOCX, PPTX and XLSX files that mean harm, written by hand: bombs, entities, names that leave the folder, endless sheets."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Final

__all__ = ["hostile_office_files", "sound_office_files"]

_HEAD: Final = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_W: Final = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_S: Final = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
_R: Final = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_P: Final = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    f'xmlns:r="{_R}"'
)
_MAIN: Final = {
    "docx": ("word/document.xml", "wordprocessingml.document.main+xml"),
    "xlsx": ("xl/workbook.xml", "spreadsheetml.sheet.main+xml"),
    "pptx": ("ppt/presentation.xml", "presentationml.presentation.main+xml"),
}
_LAUGHS: Final = (
    '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(12))
    + "]><l>&m;</l>"
)
_OUTSIDE: Final = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]><l>&x;</l>'


def _relations(*targets: tuple[str, str]) -> str:
    rows = "".join(
        f'<Relationship Id="rId{n}" Type="{_R}/{kind}" Target="{target}"/>'
        for n, (kind, target) in enumerate(targets, 1)
    )
    return f'{_HEAD}<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rows}</Relationships>'


def _types(**parts: str) -> str:
    prefix = "application/vnd.openxmlformats-officedocument."
    rows = "".join(
        f'<Override PartName="/{name}" ContentType="{prefix}{kind}"/>' for name, kind in parts.items()
    )
    return (
        f'{_HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{rows}</Types>'
    )


def _word(body: str) -> dict[str, str | bytes]:
    name, kind = _MAIN["docx"]
    return {
        "[Content_Types].xml": _types(**{name: kind}),
        "_rels/.rels": _relations(("officeDocument", name)),
        name: f"{_HEAD}<w:document {_W}><w:body>{body}</w:body></w:document>",
    }


def _book(rows: str, *, shared: str = "", sheets: int = 1) -> dict[str, str | bytes]:
    name, kind = _MAIN["xlsx"]
    listed = "".join(f'<sheet name="S{n}" sheetId="{n}" r:id="rId1"/>' for n in range(1, sheets + 1))
    return {
        "[Content_Types].xml": _types(
            **{
                name: kind,
                "xl/worksheets/sheet1.xml": "spreadsheetml.worksheet+xml",
                "xl/sharedStrings.xml": "spreadsheetml.sharedStrings+xml",
            }
        ),
        "_rels/.rels": _relations(("officeDocument", name)),
        name: f'{_HEAD}<workbook {_S} xmlns:r="{_R}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(
            ("worksheet", "worksheets/sheet1.xml"), ("sharedStrings", "sharedStrings.xml")
        ),
        "xl/worksheets/sheet1.xml": f"{_HEAD}<worksheet {_S}><sheetData>{rows}</sheetData></worksheet>",
        "xl/sharedStrings.xml": shared or f"{_HEAD}<sst {_S}><si><t>word</t></si></sst>",
    }


def _show(shapes: str, *, slides: int = 1) -> dict[str, str | bytes]:
    name, kind = _MAIN["pptx"]
    listed = "".join(f'<p:sldId id="{255 + n}" r:id="rId1"/>' for n in range(1, slides + 1))
    return {
        "[Content_Types].xml": _types(**{name: kind, "ppt/slides/slide1.xml": "presentationml.slide+xml"}),
        "_rels/.rels": _relations(("officeDocument", name)),
        name: f"{_HEAD}<p:presentation {_P}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": _relations(("slide", "slides/slide1.xml")),
        "ppt/slides/slide1.xml": f"{_HEAD}<p:sld {_P}><p:cSld><p:spTree><p:nvGrpSpPr/><p:grpSpPr/>{shapes}</p:spTree>"
        "</p:cSld></p:sld>",
    }


def _paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def _row(number: int | str, cells: str) -> str:
    return f'<row r="{number}">{cells}</row>'


def _cell(text: str, place: str = "A1") -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def _shape(text: str) -> str:
    return (
        '<p:sp><p:nvSpPr><p:cNvPr id="2" name="n"/><p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/>'
        f"<p:txBody><a:bodyPr/><a:p><a:r><a:t>{text}</a:t></a:r></a:p></p:txBody></p:sp>"
    )


def _archive(members: Mapping[str, str | bytes], *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")
        for name, body in members.items():
            archive.writestr(name, body)
    return out.getvalue()


def sound_office_files() -> dict[str, bytes]:
    """Returns a small sound file of each format."""
    return {
        "docx": _archive(_word(_paragraph("Words of a document"))),
        "xlsx": _archive(_book(_row(1, _cell("word") + _cell("two", "B1")) + _row(2, _cell("x", "A2")))),
        "pptx": _archive(_show(_shape("Words of a slide"))),
    }


def hostile_office_files(draw: random.Random) -> Iterator[tuple[str, str, bytes]]:
    """Yields kinds, names and bytes."""
    plain = {
        "docx": _word(_paragraph("Words")),
        "xlsx": _book(_row(1, _cell("word"))),
        "pptx": _show(_shape("Words")),
    }
    for kind, members in plain.items():
        for name, data in _of_archives(kind, members):
            yield kind, name, data
        sound = sound_office_files()[kind]
        for number in range(6):
            data = bytearray(sound)
            for _ in range(draw.randrange(1, 12)):
                data[draw.randrange(4, len(data))] = draw.randrange(256)
            yield kind, f"damaged-{number}", bytes(data)
    parts = (_paragraph(draw.randbytes(150).hex() + "w" * 40_000) for _ in range(1_500))
    yield "docx", "unpacks-to-60-mb-of-text", _archive(_word("".join(parts)))
    for name, body in _documents():
        yield "docx", name, _archive(_word(body))
    for name, members in _workbooks():
        yield "xlsx", name, _archive(members)
    for name, members in _presentations():
        yield "pptx", name, _archive(members)


def _of_archives(kind: str, members: dict[str, str | bytes]) -> Iterator[tuple[str, bytes]]:
    main = _MAIN[kind][0]
    sound = _archive(members)
    yield "cut", sound[: len(sound) // 2]
    yield "laughs", _archive(members | {main: _LAUGHS})
    yield (
        "laughs-in-utf-16",
        _archive(members | {main: _LAUGHS.replace("?>", ' encoding="UTF-16"?>', 1).encode("utf-16")}),
    )
    yield "laughs-in-relations", _archive(members | {"_rels/.rels": _LAUGHS})
    yield "file-as-entity", _archive(members | {main: _OUTSIDE})
    yield "unpacks-to-100-mb", _archive(members | {main: b" " * (100 << 20)})
    yield "many-parts", _archive(members | {f"x{n}.xml": "" for n in range(25_000)})
    yield "deep", _archive(members | {main: f"{_HEAD}{'<a>' * 150_000}"})
    attributes = [f'b{n}="c"' for n in range(60_000)]
    yield (
        "attributes",
        _archive(members | {main: f"{_HEAD}<a {' '.join(attributes)}/>"}),
    )
    escapes = [
        "../../outside",
        "/outside",
        "..\\..\\outside",
        "C:\\outside",
        "word/../../../outside",
        "a" * 5000,
    ]
    yield "names-that-leave", _archive(members | dict.fromkeys(escapes, "<x/>"))
    yield "part-is-missing", _archive({name: body for name, body in members.items() if name != main})
    yield "part-is-binary", _archive(members | {main: bytes(range(256)) * 50})
    yield (
        "relation-leaves",
        _archive(members | {"_rels/.rels": _relations(("officeDocument", "../../../etc/passwd"))}),
    )
    outside = _relations(("officeDocument", "http://127.0.0.1:9/x")).replace("/>", ' TargetMode="External"/>')
    yield "relation-to-the-network", _archive(members | {"_rels/.rels": outside})
    yield "locked", _patched(sound, 6, b"\x01\x00")
    yield "method-99", _patched(sound, 8, struct.pack("<H", 99))
    yield "size-lies", sound.replace(struct.pack("<I", len(members[main])), struct.pack("<I", 0xFFFFFFF0))


def _patched(data: bytes, at: int, new: bytes) -> bytes:
    """Returns an archive with two bytes changed in every header of a member, local (PK34) and central (PK12)."""
    out = bytearray(data)
    for mark, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        place = out.find(mark)
        while place >= 0:
            out[place + at + shift : place + at + shift + len(new)] = new
            place = out.find(mark, place + 4)
    return bytes(out)


def _documents() -> Iterator[tuple[str, str]]:
    yield "many-paragraphs", _paragraph("w") * 300_000
    yield "one-word", _paragraph("w" * 20_000_000)
    yield "nested-tables", "<w:tbl><w:tr><w:tc>" * 3_000 + _paragraph("x") + "</w:tc></w:tr></w:tbl>" * 3_000
    span = '<w:tc><w:tcPr><w:gridSpan w:val="2147483647"/></w:tcPr><w:p><w:r><w:t>x</w:t></w:r></w:p></w:tc>'
    yield "span", f"<w:tbl><w:tr>{span * 100}</w:tr></w:tbl>"
    row = f"<w:tr>{'<w:tc/>' * 300}</w:tr>"
    yield "wide-table", f"<w:tbl>{row * 300}</w:tbl>"
    style = '<w:p><w:pPr><w:outlineLvl w:val="{}"/></w:pPr><w:r><w:t>Title</w:t></w:r></w:p>'
    yield "headings", "".join(style.format(n % 9) for n in range(50_000))
    yield "odd-numbers", style.format("-1") + style.format("٣") + style.format("9" * 5000)
    yield (
        "controls-in-controls",
        "<w:sdt><w:sdtContent>" * 5_000 + _paragraph("x") + "</w:sdtContent></w:sdt>" * 5_000,
    )


def _workbooks() -> Iterator[tuple[str, dict[str, str | bytes]]]:
    yield "row-far-down", _book(_row(999_999_999, _cell("x", "A999999999")))
    yield "column-far-right", _book("".join(_row(n, _cell("x", f"XFD{n}")) for n in range(1, 3_000)))
    yield "places-that-are-none", _book(_row("x", _cell("x", "ÄÖ-1")) + _row(-5, _cell("y", "")))
    yield "million-cells", _book("".join(_row(n, '<c t="s"><v>0</v></c>' * 20) for n in range(1, 50_000)))
    yield "many-sheets", _book(_row(1, _cell("x")), sheets=5_000)
    yield "same-sheet-often", _book("".join(_row(n, _cell("x")) for n in range(1, 5_000)), sheets=900)
    yield "long-cell", _book(_row(1, _cell("w" * 20_000_000)))
    strings = f'{_HEAD}<sst {_S} count="2147483647" uniqueCount="2147483647"><si><t>w</t></si></sst>'
    yield "strings-that-are-not-there", _book(_row(1, '<c t="s"><v>2147483647</v></c>'), shared=strings)
    yield (
        "dates",
        _book(
            _row(1, '<c t="d"><v>9999999-99-99</v></c><c t="n"><v>1e999</v></c><c s="77"><v>-1e300</v></c>')
        ),
    )
    formula = '<c r="A{0}"><f>{1}</f></c>'
    yield "formulas", _book("".join(_row(n, formula.format(n, "A" * 1000)) for n in range(1, 20_000)))
    yield "shared-formulas", _book(_row(1, '<c r="A1"><f t="shared" ref="A1:XFD1048576" si="0">A1</f></c>'))
    yield (
        "merged",
        _book(
            _row(1, _cell("x")) + "</sheetData>" + '<mergeCell ref="A1:XFD1048576"/>' * 20_000 + "<sheetData>"
        ),
    )


def _presentations() -> Iterator[tuple[str, dict[str, str | bytes]]]:
    yield "many-slides", _show(_shape("x"), slides=20_000)
    yield (
        "groups-in-groups",
        _show("<p:grpSp><p:nvGrpSpPr/><p:grpSpPr/>" * 3_000 + _shape("x") + "</p:grpSp>" * 3_000),
    )
    yield "many-shapes", _show(_shape("x") * 20_000)
    yield "long-text", _show(_shape("w" * 20_000_000))
    yield (
        "titles",
        _show(_shape("x").replace("<p:nvPr/>", '<p:nvPr><p:ph type="title" idx="0"/></p:nvPr>') * 2_000),
    )
    frame = (
        '<p:graphicFrame><p:nvGraphicFramePr><p:cNvPr id="2" name="n"/><p:cNvGraphicFramePr/><p:nvPr/></p:nvGraphicFramePr>'
        '<a:graphic><a:graphicData uri="http://schemas.openxmlformats.org/drawingml/2006/{}">{}</a:graphicData></a:graphic>'
        "</p:graphicFrame>"
    )
    cell = '<a:tc gridSpan="2147483647" rowSpan="-1"><a:txBody><a:bodyPr/><a:p/></a:txBody></a:tc>'
    yield "table", _show(frame.format("table", f"<a:tbl>{f'<a:tr>{cell * 300}</a:tr>' * 100}</a:tbl>"))
    yield (
        "chart-without-data",
        _show(frame.format("chart", f'<c:chart xmlns:c="x" xmlns:r="{_R}" r:id="rId9"/>')),
    )

"""PDF: the text layer page by page, with the outline as heading path. Pages that are pictures are recognised by OCR."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from deepwell.errors import InvalidFile, MissingDependency
from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.headings import HeadingPath, one_line
from deepwell.knowledge.parse.ocr import OCR_FIX, PageReader, ocr_installed

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument, PdfPage

__all__ = ["MOST_PAGES", "parse_pdf"]

MOST_PAGES: Final = 10_000
_MOST_BROKEN: Final = 100  # pages; a file that has more is broken as a whole
_MOST_OUTLINE: Final = 5_000
_PASSWORD: Final = 4  # FPDF_ERR_PASSWORD
_MOST_UNMAPPED_SHARE = 0.5
_UNMAPPED = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f]")
# pdfium ends a line that was hyphenated with U+FFFE or U+0002 in place of the hyphen.
_HYPHEN = re.compile("[\ufffe\x02](?:\r?\n)?")


def parse_pdf(data: bytes) -> Document:
    """Returns the text of a PDF, a section for each page and for each entry of the outline that is found on it.

    Pages that hold pictures and no text go through OCR if the extra is installed. Without it they are named under
    `pages_left_out` in the metadata.

    Raises:
        InvalidFile: the file is broken, encrypted or without text, or has more than 10,000 pages.
        MissingDependency: no page has text, and the extra [ocr] is not installed.
    """
    pdf = _opened(data)
    try:
        if len(pdf) > MOST_PAGES:
            raise InvalidFile(
                f"the PDF has {len(pdf):,} pages, more than {MOST_PAGES:,}", fix="split it into smaller ones"
            )
        return _Reader(pdf).read()
    finally:
        pdf.close()


def _opened(data: bytes) -> PdfDocument:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            raise InvalidFile("the PDF is encrypted", fix="save it without a password") from None
        raise InvalidFile(
            f"the PDF is broken ({error})", fix="save the document again with the program that made it"
        ) from None


class _Reader:
    def __init__(self, pdf: PdfDocument) -> None:
        self._pdf = pdf
        self._builder = DocumentBuilder("application/pdf")
        self._path = HeadingPath()
        self._pictures: list[int] = []  # pages without text, from 1
        self._broken: list[int] = []

    def read(self) -> Document:
        self._describe()
        outline = self._outline()
        reader = PageReader() if ocr_installed() else None
        for number in range(1, len(self._pdf) + 1):
            text = self._page_text(number, reader)
            for place, part in self._parts(number, text, outline.get(number, [])):
                self._builder.add(part, place)
        if reader is not None and reader.pages:
            self._builder.note("pages_by_ocr", str(reader.pages))
        if not len(self._builder) and self._pictures:
            raise MissingDependency.of("pdf_scanned", pages=len(self._pdf))
        if self._pictures:
            self._builder.note(
                "pages_left_out", f"{_ranges(self._pictures)} (pictures without text; {OCR_FIX})"
            )
        if self._broken:
            self._builder.note("pages_left_out", f"{_ranges(self._broken)} (broken)")
        return self._builder.finish()

    def _describe(self) -> None:
        described = self._pdf.get_metadata_dict(skip_empty=True)
        self._builder.title = described.get("Title")
        for key in ("Author", "Subject", "Keywords"):
            self._builder.note(key.lower(), described.get(key))
        if (date := re.match(r"D:(\d{4})(\d\d)(\d\d)", described.get("CreationDate", ""))) is not None:
            self._builder.note("date", "-".join(date.groups()))

    def _outline(self) -> dict[int, list[tuple[int, str]]]:
        """Returns level and title of the outline's entries by their page."""
        found: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
        for count, mark in enumerate(self._pdf.get_toc(max_depth=8)):
            if count >= _MOST_OUTLINE:
                break
            target = mark.get_dest()
            index = target.get_index() if target is not None else None
            title = one_line(mark.get_title())
            if index is not None and title:
                found[index + 1].append((mark.level, title))
        return found

    def _page_text(self, number: int, reader: PageReader | None) -> str:
        import pypdfium2

        try:
            page = self._pdf.get_page(number - 1)
        except pypdfium2.PdfiumError:
            self._broken.append(number)
            if len(self._broken) > _MOST_BROKEN:
                raise InvalidFile(
                    f"more than {_MOST_BROKEN} pages of the PDF are broken",
                    fix="save the document again with the program that made it",
                ) from None
            return ""
        try:
            text = _text_layer(page)
            if text.strip() or not _has_picture(page):
                return text
            if reader is None:
                self._pictures.append(number)
                return ""
            return reader.read(page)
        finally:
            page.close()

    def _parts(
        self, number: int, text: str, entries: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[Place, str]]:
        """Yields the page cut where the outline's entries are found in it, with the path that holds there."""
        lines = text.split("\n")
        folded = [_folded(line) for line in lines]
        begin = at = 0
        for level, title in entries:
            wanted = _folded(title)
            # A long title fills several lines, of which the first begins it.
            found = next(
                (
                    i
                    for i in range(at, len(lines))
                    if folded[i]
                    and (folded[i].endswith(wanted) or (len(folded[i]) > 8 and wanted.startswith(folded[i])))
                ),
                None,
            )
            if found is None:
                if at == 0:  # the page belongs to the entry from its start
                    self._path.enter(level, title)
                continue
            yield Place(page=number, headings=self._path.titles), "\n".join(lines[begin:found])
            self._path.enter(level, title)
            begin, at = found, found + 1
        yield Place(page=number, headings=self._path.titles), "\n".join(lines[begin:])


def _text_layer(page: PdfPage) -> str:
    textpage = page.get_textpage()
    try:
        text = textpage.get_text_range()
    finally:
        textpage.close()
    text = _HYPHEN.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    if len(_UNMAPPED.findall(text)) > _MOST_UNMAPPED_SHARE * len(
        text
    ):  # fonts that do not say their characters
        return ""
    return text


def _has_picture(page: Any) -> bool:
    import pypdfium2.raw

    pictures = page.get_objects(filter=(pypdfium2.raw.FPDF_PAGEOBJ_IMAGE,), max_depth=3)
    return next(iter(pictures), None) is not None


def _folded(text: str) -> str:
    return "".join(text.split()).casefold()


def _ranges(numbers: Sequence[int]) -> str:
    """Returns numbers in order as text: "1-3, 7"."""
    parts: list[str] = []
    begin = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number != last + 1:
            parts.append(str(begin) if begin == last else f"{begin}-{last}")
            begin = number
        last = number
    return ", ".join(parts)

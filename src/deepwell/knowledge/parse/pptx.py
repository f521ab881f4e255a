"""PPTX: slide by slide, its title as heading, tables and charts as rows, speaker notes behind the slide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.docx import describe
from deepwell.knowledge.parse.headings import one_line
from deepwell.knowledge.parse.office import checked_archive, member_text
from deepwell.knowledge.parse.tables import lines_of_table

__all__ = ["parse_pptx"]

_MOST_SLIDES: Final = 5_000
_MOST_POINTS: Final = 1_000  # of a chart


def parse_pptx(data: bytes) -> Document:
    """Returns the text of a presentation, a section for each slide, each row of its tables, and its notes.

    Raises:
        InvalidFile: the file is broken, hostile or without text.
    """
    from pptx import Presentation

    presentation = Presentation(checked_archive(data))
    builder = DocumentBuilder("application/vnd.openxmlformats-officedocument.presentationml.presentation")
    describe(presentation.part.package, presentation, builder)
    for number, slide in enumerate(presentation.slides, 1):
        if number > _MOST_SLIDES:
            raise InvalidFile(f"the presentation has more than {_MOST_SLIDES:,} slides", fix="split it")
        _slide(number, slide, builder)
    return builder.finish()


def _slide(number: int, slide: Any, builder: DocumentBuilder) -> None:
    title_shape = slide.shapes.title
    title = one_line(member_text(title_shape._element)) if title_shape is not None else ""
    if title and builder.title is None and number == 1:
        builder.title = title
    place = Place(slide=number, headings=(title,) if title else ())
    texts = [title] if title else []
    for shape in _shapes(slide.shapes):
        if title_shape is not None and shape.shape_id == title_shape.shape_id:
            continue
        if getattr(shape, "has_table", False):
            builder.add("\n\n".join(texts), place)
            texts = []
            _rows(([cell.text for cell in row.cells] for row in shape.table.rows), place, builder)
        elif getattr(shape, "has_chart", False):
            builder.add("\n\n".join(texts), place)
            texts = []
            _rows(list(_chart(shape.chart)), place, builder)
        elif getattr(shape, "has_text_frame", False):
            text = member_text(shape._element).strip()
            texts += [text] if text else []
    builder.add("\n\n".join(texts), place)
    if slide.has_notes_slide:
        frame = slide.notes_slide.notes_text_frame
        notes = member_text(frame._element).strip() if frame is not None else ""
        builder.add(f"Notes: {notes}" if notes else "", place)


def _rows(rows: Iterable[Sequence[object]], place: Place, builder: DocumentBuilder) -> None:
    for line in lines_of_table(rows):
        here = Place(slide=place.slide, row=line.row, headings=place.headings)
        builder.add(line.text, here, header=line.header, gap="\n" if line.row > 1 else "\n\n")


def _shapes(shapes: Any) -> Iterator[Any]:
    """Yields shapes in their order, those of groups in place of the group."""
    stack = [iter(shapes)]
    while stack:
        shape = next(stack[-1], None)
        if shape is None:
            stack.pop()
        elif hasattr(shape, "shapes"):
            stack.append(iter(shape.shapes))
        else:
            yield shape


def _chart(chart: Any) -> Iterator[list[str]]:
    for plot in chart.plots:
        names = [str(series.name or "") for series in plot.series]
        yield ["Category", *names]
        values = [list(islice(series.values, _MOST_POINTS)) for series in plot.series]
        for index, category in enumerate(islice(plot.categories, _MOST_POINTS)):
            yield [str(category), *("" if index >= len(v) else str(v[index]) for v in values)]

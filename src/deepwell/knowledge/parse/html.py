"""HTML: the main content with its headings, lists and tables, without navigation and other furniture of the site.

What is furniture is told by landmarks (`<nav>`, `<footer>`, `role`) and by links: a run of lines that are nothing but links
is a menu. `<main>`, or else the one `<article>`, is taken alone if it holds a good part of the page's text. No model and no
statistics of the page decide, so that a short page, a table or a code listing is never lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from deepwell.knowledge.documents import Document, Place
from deepwell.knowledge.parse.builder import DocumentBuilder
from deepwell.knowledge.parse.encoding import decode
from deepwell.knowledge.parse.headings import HeadingPath
from deepwell.knowledge.parse.tables import lines_of_table

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = ["parse_html"]

_SKIPPED: Final = frozenset(
    "script style noscript template svg math iframe object embed canvas audio video nav aside footer head "
    "button input select textarea dialog menu".split()
)
_SKIPPED_ROLES: Final = frozenset(
    "navigation banner contentinfo search complementary menu menubar toolbar dialog alertdialog".split()
)
_BLOCKS: Final = frozenset(
    "p div section article main header blockquote ul ol dl dt dd li pre address figure figcaption table caption "
    "thead tbody tfoot tr td th form fieldset legend details summary hr body html center".split()
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_MIN_MAIN_SHARE = 0.3  # of the page's text
_MIN_LINK_SHARE = 0.8  # of a line of a menu
_MIN_MENU_LINES = 3
_MOST_COLUMNS = 50
_SPACES = re.compile(r"[ \t\n\r\f\v\u200b]+")
_CHARSET = re.compile(rb"""<meta[^>]{0,300}charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""<\?xml[^>]{0,100}encoding\s*=\s*["']([\w.:-]{1,40})""", re.IGNORECASE)
_META: Final = {
    "author": "author",
    "description": "description",
    "keywords": "keywords",
    "date": "date",
    "article:published_time": "date",
    "og:description": "description",
}


@dataclass(slots=True)
class _Block:
    """A paragraph, list item, heading (`level`), listing, or table (`rows`)."""

    text: str = ""
    level: int = 0
    item: bool = False
    rows: list[list[str]] = field(default_factory=list[list[str]])
    linked: int = 0  # characters within links
    landmark: str = ""  # "main" or "article", if it is inside


def parse_html(data: bytes) -> Document:
    """Returns the main content of a page, a section for each heading and each row of a table.

    Raises:
        InvalidFile: there is no text, or too much.
    """
    from selectolax.lexbor import LexborHTMLParser

    declared = _CHARSET.search(data[:4096]) or _XML_ENCODING.match(data[:200])
    decoded = decode(data, declared[1].decode("ascii", "replace") if declared else None)
    builder = DocumentBuilder("text/html")
    builder.note("encoding", decoded.said)
    tree = LexborHTMLParser(decoded.text)
    _describe(tree, builder)
    walk = _Walk()
    if tree.body is not None:
        walk.run(tree.body)
    _write(_main(walk.blocks), builder)
    return builder.finish()


def _describe(tree: object, builder: DocumentBuilder) -> None:
    root = getattr(tree, "root", None)
    head = getattr(tree, "head", None)
    if root is None or head is None:
        return
    node = head.child
    while node is not None:
        if node.tag == "title" and builder.title is None:
            builder.title = _squeezed(_text_below(node)) or None
        elif node.tag == "meta":
            attributes = node.attributes
            name = (attributes.get("name") or attributes.get("property") or "").lower()
            key = _META.get(name)
            if key and key not in builder.metadata:
                builder.note(key, (attributes.get("content") or "")[:2000])
        node = node.next


class _Walk:
    """Goes through the tree without recursion, for pages nest as deep as they like."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self._text: list[str] = []
        self._linked = 0
        self._links = 0  # open ones
        self._pre = 0
        self._item = False
        self._level = 0
        self._landmarks: list[str] = []

    def run(self, root: LexborNode) -> None:
        node: LexborNode | None = root
        while node is not None:
            if self._enter(node) and node.child is not None:
                node = node.child
                continue
            while node is not None:
                self._leave(node)
                if node.mem_id == root.mem_id:
                    node = None
                    break
                if node.next is not None:
                    node = node.next
                    break
                node = node.parent
        self._flush()

    def _enter(self, node: LexborNode) -> bool:
        """Takes a node in. Returns True if its children shall be."""
        tag = node.tag
        if tag == "-text":
            self._add(node.text_content or "")
            return False
        if tag is None or tag.startswith(("-", "!")):
            return False
        if tag == "br":
            self._text.append("\n")
            return False
        if tag in _SKIPPED or self._is_hidden(node, tag):
            return False
        if tag == "a":
            self._links += 1
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
            if tag == "table" and (rows := _data_rows(node)):
                self.blocks.append(_Block(rows=rows, landmark=self._landmark))
                return False
            self._open(node, tag)
        return True

    def _open(self, node: LexborNode, tag: str) -> None:
        if tag in _HEADINGS:
            self._level = _HEADINGS[tag]
        elif tag == "li":
            self._item = True
        elif tag == "pre":
            self._pre += 1
        if (mark := _landmark(node, tag)) is not None:
            self._landmarks.append(mark)

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag
        if tag is None or tag in _SKIPPED:
            return
        if tag == "a":
            self._links = max(self._links - 1, 0)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self._flush()
            if tag == "pre":
                self._pre = max(self._pre - 1, 0)
            if self._landmarks and _landmark(node, tag) is not None:
                self._landmarks.pop()

    @property
    def _landmark(self) -> str:
        return "main" if "main" in self._landmarks else self._landmarks[-1] if self._landmarks else ""

    def _is_hidden(self, node: LexborNode, tag: str) -> bool:
        attributes = node.attributes
        if not attributes:
            return tag == "header" and not self._landmarks and node.css_first("h1") is None
        if (attributes.get("role") or "").lower() in _SKIPPED_ROLES or "hidden" in attributes:
            return True
        if tag == "header" and not self._landmarks and node.css_first("h1") is None:
            return True
        style = (attributes.get("style") or "").replace(" ", "").lower()
        return attributes.get("aria-hidden") == "true" or "display:none" in style

    def _add(self, text: str) -> None:
        self._text.append(text if self._pre else _SPACES.sub(" ", text))
        if self._links:
            self._linked += len(text.strip())

    def _flush(self) -> None:
        text = "".join(self._text)
        if self._pre:
            text = text.strip("\n")
        else:
            text = "\n".join(line.strip() for line in _once_spaced(text).split("\n")).strip()
        if text.strip():
            level, item = self._level, self._item
            self.blocks.append(
                _Block(text, level, item and not level, linked=self._linked, landmark=self._landmark)
            )
            self._item = False
        self._level = 0
        self._text, self._linked = [], 0


def _landmark(node: LexborNode, tag: str) -> str | None:
    if tag == "main" or (tag != "article" and node.attributes.get("role") == "main"):
        return "main"
    return "article" if tag == "article" else None


def _data_rows(table: LexborNode) -> list[list[str]]:
    """Returns the cells of a table of data; nothing for one that lays the page out."""
    inside = (node for node in table.css("table, h1, h2, h3, h4, pre") if node.mem_id != table.mem_id)
    if table.attributes.get("role") == "presentation" or next(inside, None) is not None:
        return []
    rows: list[list[str]] = []
    for row in table.css("tr"):
        cells: list[str] = []
        cell = row.child
        while cell is not None:
            if cell.tag in ("td", "th"):
                cells.append(_squeezed(_text_below(cell)))
                span = cell.attributes.get("colspan") or ""
                more = int(span) - 1 if span.isascii() and span.isdigit() and len(span) < 4 else 0
                cells += [""] * min(more, _MOST_COLUMNS)
            cell = cell.next
        rows.append(cells)
    wide = max(map(len, rows), default=0) >= 2
    return rows if len(rows) >= 2 and wide else []


def _text_below(root: LexborNode) -> str:
    parts: list[str] = []
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag
        if tag == "-text":
            parts.append(node.text_content or "")
        elif tag == "br" or tag in _BLOCKS:
            parts.append(" ")
        if tag not in ("script", "style") and node.child is not None:
            node = node.child
            continue
        while node is not None:
            if node.mem_id == root.mem_id:
                return "".join(parts)
            if node.next is not None:
                node = node.next
                break
            node = node.parent
    return "".join(parts)


def _squeezed(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


def _once_spaced(text: str) -> str:
    return re.sub(r" {2,}", " ", text)


def _main(blocks: Sequence[_Block]) -> list[_Block]:
    """Returns the blocks of the main content; see the module."""
    sizes = [
        len(block.text) + sum(map(len, (cell for row in block.rows for cell in row))) for block in blocks
    ]
    whole = sum(sizes)
    for mark in ("main", "article"):
        held = sum(size for block, size in zip(blocks, sizes, strict=True) if block.landmark == mark)
        if held and held >= _MIN_MAIN_SHARE * whole:
            return [block for block in blocks if block.landmark == mark]
    return list(_without_menus(blocks))


def _without_menus(blocks: Sequence[_Block]) -> Iterator[_Block]:
    run: list[_Block] = []
    for block in [*blocks, _Block(level=9)]:
        length = len("".join(block.text.split()))
        if length and not block.level and block.linked >= _MIN_LINK_SHARE * length:
            run.append(block)
            continue
        if len(run) < _MIN_MENU_LINES:
            yield from run
        run = []
        if block.text or block.rows:
            yield block


def _write(blocks: Sequence[_Block], builder: DocumentBuilder) -> None:
    path = HeadingPath()
    parts: list[str] = []
    last_item = False

    def flush() -> None:
        builder.add("".join(parts), Place(headings=path.titles))
        parts.clear()

    for block in blocks:
        if block.level:
            flush()
            path.enter(block.level, block.text)
            if builder.title is None and block.level == 1:
                builder.title = _squeezed(block.text)
        if block.rows:
            flush()
            for line in lines_of_table(block.rows):
                place = Place(row=line.row, headings=path.titles)
                builder.add(line.text, place, header=line.header, gap="\n" if line.row > 1 else "\n\n")
            continue
        gap = "\n" if block.item and last_item else "\n\n"
        parts.append((gap if parts else "") + (f"- {block.text}" if block.item else block.text))
        last_item = block.item
    flush()

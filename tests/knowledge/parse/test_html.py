"""Pages: what is kept of them, what is furniture."""

from __future__ import annotations

import pytest

from deepwell.errors import InvalidFile
from deepwell.knowledge.documents import Document
from deepwell.knowledge.parse.parse import parse_bytes

PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>A &amp; B</title>
<meta name="author" content="Ada"><style>p { color: red }</style></head><body>
<header><a href="/">Home</a><a href="/b">Blog</a></header><nav><a>x</a></nav>
<div class="menu"><ul><li><a>First</a></li><li><a>Second</a></li><li><a>Third</a></li></ul></div>
<h1>The  <em>title</em></h1><p>A paragraph<br>of two lines.</p>
<ul><li>one</li><li>two <a href="u">link</a></li></ul>
<h2>Data</h2><table><thead><tr><th>Name</th><th>Size</th></tr></thead>
<tr><td>a</td><td>1&nbsp;kB</td></tr><tr><td>b</td><td></td></tr></table>
<pre>def f():
    return 1</pre><div hidden>secret</div><div style="display: none">gone</div>
<script>alert(1)</script><footer>Imprint</footer></body></html>"""


def parsed(text: str) -> Document:
    return parse_bytes(text.encode(), "page.html")


def test_a_page_keeps_headings_lists_tables_and_listings() -> None:
    document = parsed(PAGE)
    assert document.title == "A & B" and document.metadata["author"] == "Ada"
    found = [(document.text[s.start : s.end], s.place.headings, s.header) for s in document.sections]
    assert found == [
        ("The title\n\nA paragraph\nof two lines.\n\n- one\n- two link", ("The title",), ""),
        ("Data", ("The title", "Data"), ""),
        ("Name | Size", ("The title", "Data"), "Name | Size"),
        ("a | 1 kB", ("The title", "Data"), "Name | Size"),
        ("b |", ("The title", "Data"), "Name | Size"),
        ("def f():\n    return 1", ("The title", "Data"), ""),
    ]


def test_the_main_part_is_taken_alone() -> None:
    text = parsed(
        "<html><body><div>Old news and adverts</div><main><p>What counts stands here.</p></main></body>"
    ).text
    assert text == "What counts stands here."


def test_a_small_main_part_does_not_hide_the_page() -> None:
    text = parsed(f"<html><body><main>Loading</main><p>{'The words of the page. ' * 20}</p></body>").text
    assert "The words of the page." in text


def test_a_table_that_lays_out_the_page_is_read_as_text() -> None:
    text = parsed(
        "<html><table><tr><td><h1>A</h1></td><td>b</td></tr><tr><td>c</td></tr></table></html>"
    ).text
    assert text == "A\n\nb\n\nc"


@pytest.mark.parametrize("encoding", ["gb2312", "big5", "shift_jis", "utf-8", "euc-kr"])
def test_a_page_names_its_encoding(encoding: str) -> None:
    word = {"euc-kr": "한국어", "shift_jis": "日本語"}.get(encoding, "中文")
    page = f'<html><head><meta http-equiv="Content-Type" content="text/html; charset={encoding}"></head><p>{word}</p>'
    assert parse_bytes(page.encode(encoding), "x").text == word


def test_text_named_html_is_text() -> None:
    assert parse_bytes(b"a < b and no tag", "x.html").media_type == "text/plain"


def test_a_page_without_text_is_an_error() -> None:
    with pytest.raises(InvalidFile):
        parsed("<html><body><script>1</script><nav>menu</nav></body></html>")


def test_a_deep_page_is_read() -> None:
    assert parsed("<html>" + "<div><span>" * 2000 + "deep").text == "deep"

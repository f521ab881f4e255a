"""Documents that mean harm: at least 200 of them over all formats, the same for every seed, to show that each ends on its own.

    for document in write_hostile_documents(folder, seed=0):
        await parser.parse(document.path, document.filename)  # a document or a DeepwellError

A file stays below 3 MB, so that it has the least time of all; what it would cost its reader does not stay small.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deepwell_bench.workloads.knowledge.hostile_documents.office import (
    hostile_office_files,
    sound_office_files,
)
from deepwell_bench.workloads.knowledge.hostile_documents.pdfs import hostile_pdfs

__all__ = ["HostileDocument", "write_hostile_documents"]

_LONG: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class HostileDocument:
    """A hostile document: `filename` is what a user would call it, `path` where it lies."""

    name: str
    kind: str
    filename: str
    path: Path


def write_hostile_documents(folder: Path, *, seed: int = 0) -> Iterator[HostileDocument]:
    """Writes hostile documents into `folder` and yields each when it is there."""
    draw = random.Random(seed)  # noqa: S311
    folder.mkdir(parents=True, exist_ok=True)
    for number, (kind, name, filename, data) in enumerate(_documents(draw)):
        path = folder / f"{number:03d}"
        path.write_bytes(data)
        yield HostileDocument(name, kind, filename, path)


def _documents(draw: random.Random) -> Iterator[tuple[str, str, str, bytes]]:
    """Yields kind, name, file name and bytes."""
    for name, data in hostile_pdfs(draw):
        yield "pdf", name, f"{name}.pdf", data
    for kind, name, data in hostile_office_files(draw):
        yield kind, name, f"{name}.{kind}", data
    texts = (
        ("html", "html", _pages(draw)),
        ("markdown", "md", _markdown()),
        ("text", "txt", _texts(draw)),
        ("csv", "csv", _tables(draw)),
        ("jsonl", "jsonl", _records()),
        ("mail", "eml", _mails(draw)),
    )
    for kind, suffix, made in texts:
        for name, data in made:
            yield kind, name, f"{name}.{suffix}", data if isinstance(data, bytes) else data.encode()
    for number, filename in enumerate(_NAMES):
        yield "name", str(number), filename, b"# Title\n\nWords, and more words.\n"


_NAMES: Final = (
    "../../../etc/passwd.md",
    "/etc/passwd",
    "..\\..\\windows\\system.md",
    "a\x00.md",
    "n" * 5_000 + ".md",
    "-rf.md",
    "$(touch outside).md",
    "`touch outside`.md",
    "a\nb\r\n.md",
    "\u202egpj.md",
    "\ud800.md",
    "con.md",
    ".",
    "",
    "%00%2e%2e%2f.md",
)


def _pages(draw: random.Random) -> Iterator[tuple[str, str | bytes]]:
    yield "deep-blocks", "<html>" + "<div>" * 200_000
    for tag in (
        "b",
        "font color=x",
        "table><tr><td",
        "ul><li",
        "select><option",
        "svg",
        "template",
        "form",
        "p",
        "a href=x",
    ):
        yield f"deep-{tag.split()[0].partition('>')[0]}", "<html>" + f"<{tag}>" * 50_000 + "words"
    yield "headings", "<html>" + "<h1>a</h1><h6>b</h6>" * 50_000
    yield "deep-headings", "<html>" + "".join(f"<h{n % 6 + 1}>" for n in range(100_000)) + "x"
    yield "attributes", "<html><p " + " ".join(f"a{n}=b" for n in range(150_000)) + ">words"
    yield "long-attribute", f'<html><p class="{"a" * _LONG}">words'
    yield "long-tag", f"<html><{'a' * _LONG}>words"
    yield "entities", "<html><p>" + "&#0;&#xD800;&#x110000;&nosuch;&amp" * 20_000
    yield "comment-without-end", "<html><p>words</p><!--" + "-" * _LONG
    yield "comments-before", "<!-- -->" * 100_000 + "<html><p>words"
    yield "script-without-end", "<html><p>words</p><script>" + "<!--<script>" * 80_000
    yield "plaintext", "<html><plaintext>" + "<p>" * 100_000
    yield "wide-cells", "<html><table>" + "<tr><td colspan=999>a<td colspan=99999999>b" * 3_000
    yield "many-cells", "<html><table>" + ("<tr>" + "<td>a" * 200) * 1_000
    yield "many-tables", "<html>" + "<table><tr><td>a<td>b<tr><td>c<td>d</table>" * 20_000
    yield "charset", "<html><meta charset=utf-7><p>+ADw-script+AD4-"
    yield "charset-of-bytes", "<html><meta charset=hex_codec><p>words"
    yield "zeros", b"<html><p>a" + b"\x00b" * 20_000
    yield "noise", b"<html>" + draw.randbytes(500_000)
    tags = [
        "<div>",
        "</div>",
        "<p>",
        "<table>",
        "</td>",
        "<b>",
        "</i>",
        "<li>",
        "</ul>",
        "<h2>",
        "<pre>",
        "x ",
        "<!--",
    ]
    yield "soup", "<html>" + "".join(draw.choices(tags, k=100_000))
    yield (
        "outside",
        '<html><base href="file:///etc/"><iframe src="passwd"></iframe><link rel=import href="//127.0.0.1:9/"><p>w',
    )


def _markdown() -> Iterator[tuple[str, str | bytes]]:
    for name, piece in (
        ("marks", "#"),
        ("stars", "*"),
        ("brackets", "["),
        ("fences", "```\n"),
        ("rules", "a\n---\n"),
        ("quotes", "> "),
        ("cells", "|"),
        ("delimiters", "|-"),
        ("spaces", "# \t"),
        ("headings", "# a\n## b\n"),
    ):
        yield name, "# a" + piece * (_LONG // len(piece)) + "x"
    yield "wide-table", f"|{'a|' * 50_000}\n|{'-|' * 50_000}\n|{'b|' * 50_000}\n"
    yield "long-table", "| a | b |\n|---|---|\n" + "| c | d |\n" * 100_000
    yield "front-matter-without-end", "---\n" + "a: b\n" * 100_000
    yield (
        "front-matter-of-yaml",
        "---\na: &a [*a, *a]\nb: !!python/object/apply:os.system ['touch outside']\n---\nwords",
    )


def _texts(draw: random.Random) -> Iterator[tuple[str, str | bytes]]:
    yield "noise", draw.randbytes(_LONG)
    yield "zeros", bytes(_LONG)
    yield "marks-alone", b"\xff\xfe"
    yield "half-a-character", b"\xff\xfe\x00\xd8" * 100_000
    yield "surrogates", "words \ud800\udfff\udc00".encode("utf-8", "surrogatepass") * 10_000
    yield "overlong", b"\xc0\xaf\xf8\x88\x80\x80\x80" * 50_000
    yield "gb18030", b"\x81\x30\x81\x30" * 100_000
    yield "one-word", "w" * _LONG
    yield "one-chinese-word", "\u6c49" * (_LONG // 3)
    yield "accents", "e" + "\u0301" * (_LONG // 2)
    yield "joiners", "\U0001f469\u200d" * 100_000
    yield "directions", "\u202e\u2066abc" * 50_000
    yield "spaces", " " * _LONG + "x"
    yield "blank-lines", "\n \t" * 300_000 + "x"
    yield "pages", "a\f" * 400_000
    yield "dots", "." * _LONG + "x"
    yield "escapes", "\x1b[31m\x1b]0;title\x07words " * 30_000
    yield "picture", b"\x89PNG\r\n\x1a\n" + draw.randbytes(10_000)
    yield "old-office", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + draw.randbytes(10_000)
    yield "gzip", b"\x1f\x8b\x08\x00" + draw.randbytes(10_000)
    yield "empty", b""


def _tables(draw: random.Random) -> Iterator[tuple[str, str | bytes]]:
    yield "quote-without-end", 'a,b\n"' + "c,d\n" * 200_000
    yield "quotes", '"' * _LONG
    yield "wide", ",".join(f"c{n}" for n in range(150_000)) + "\n" + "1," * 150_000
    yield "wide-and-long", ("a," * 1_000 + "\n") * 500
    yield "long", "a,b\n" + "1,2\n" * 400_000
    yield "long-value", f"a,b\n{'w' * _LONG},x\n"
    yield "formulas", "a,b\n=cmd|' /C touch outside'!A0,@SUM(1)\n" * 1_000
    yield "zeros", b"a,b\n1,\x002\n" * 10
    yield "carriage-returns", "a,b\r1,2\r" * 100_000
    yield "separators", "sep=\n;,\t|" * 50_000
    yield "noise", bytes(draw.choices(b'ab,;"\n\r\t|', k=_LONG))
    yield "empty-rows", "a,b\n" + ",\n" * 400_000 + "1,2\n"


def _records() -> Iterator[tuple[str, str | bytes]]:
    yield "deep-list", '{"a":1}\n{"a": ' + "[" * 400_000
    yield "deep-object", '{"a":1}\n' + '{"a":' * 100_000 + "1" + "}" * 100_000
    yield "thirty-deep", '{"a":' * 30 + "1" + "}" * 30
    yield "long-number", '{"a": ' + "9" * _LONG + "}\n"
    yield "odd-numbers", '{"a": 1e999, "b": NaN, "c": -Infinity}\n' * 1_000
    yield "surrogates", '{"\\ud800": "\\udfff\\u0000"}\n' * 1_000
    yield "many-keys", "{" + ",".join(f'"k{n}":{n}' for n in range(100_000)) + "}\n"
    yield "same-keys", "{" + ",".join('"k":1' for _ in range(100_000)) + "}\n"
    yield "long-key", f'{{"{"k" * _LONG}": 1}}\n'
    yield "broken-line", '{"a": 1}\n' * 1_000 + "{"
    yield "no-objects", "null\n1\n[]\n" * 10_000
    yield "long-list", '{"a": [' + "1," * 300_000 + "1]}\n"
    yield "many", "{}\n" * 300_000 + '{"a":1}'


def _mails(draw: random.Random) -> Iterator[tuple[str, str | bytes]]:
    head = "From: a@example.org\nTo: b@example.org\nSubject: s\nMIME-Version: 1.0\n"
    yield "many-parts", head + 'Content-Type: multipart/mixed; boundary="x"\n\n' + "--x\n\npart\n" * 50_000
    nested = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(5_000))
    yield "parts-in-parts", head + nested + "\nwords"
    yield "mails-in-mails", head + "Content-Type: message/rfc822\n\nFrom: a\nSubject: t\n" * 3_000 + "\nwords"
    yield "same-boundary", head + ('Content-Type: multipart/mixed; boundary="x"\n\n--x\n') * 5_000
    yield "empty-boundary", head + 'Content-Type: multipart/mixed; boundary=""\n\n----\n\nx'
    yield "long-header", head + f"X: {'a' * _LONG}\n\nwords"
    yield "many-headers", head + "".join(f"X-{n}: a\n" for n in range(60_000)) + "\nwords"
    yield "folded", head + "X: a\n" + " b\n" * 200_000 + "\nwords"
    yield "encoded-words", f"From: a\nSubject: {'=?utf-8?B?YQ==?= ' * 40_000}\nDate: x\n\nwords"
    yield "broken-encoded-words", f"From: a\nSubject: {'=?utf-8?q?=' * 40_000}\nDate: x\n\nwords"
    yield (
        "unknown-encodings",
        head + "Content-Type: text/plain; charset=nosuch\nContent-Transfer-Encoding: nosuch\n\nwords",
    )
    yield "charset-of-bytes", head + "Content-Type: text/plain; charset=hex\n\nwords"
    yield "broken-base64", head + "Content-Transfer-Encoding: base64\n\n" + "=A=" * 100_000
    yield "quoted-printable", head + "Content-Transfer-Encoding: quoted-printable\n\n" + "=ZZ=\n" * 100_000
    yield (
        "uuencoded",
        head + "Content-Transfer-Encoding: uuencode\n\nbegin 644 ../../outside\n" + "M" * 100_000,
    )
    yield (
        "parameters",
        head + "Content-Type: text/plain" + "".join(f"; a*{n}*=b" for n in range(30_000)) + "\n\nwords",
    )
    yield "addresses", "From: " + "a:<" * 100_000 + "\nSubject: s\nDate: x\n\nwords"
    yield "deep-page", head + "Content-Type: text/html\n\n<html>" + "<div>" * 150_000
    sound = sound_office_files()
    bombs = {name: data for kind, name, data in hostile_office_files(draw) if kind == "xlsx"}
    for name, data in (
        ("sound", sound["docx"]),
        ("laughs", bombs["laughs"]),
        ("row-far-down", bombs["row-far-down"]),
    ):
        body = base64.encodebytes(data).decode()
        part = (
            "Content-Type: application/octet-stream\nContent-Transfer-Encoding: base64\n"
            f'Content-Disposition: attachment; filename="../../../outside/{name}"\n\n{body}'
        )
        yield (
            f"attached-{name}",
            f'{head}Content-Type: multipart/mixed; boundary="x"\n\n' + f"--x\n{part}\n" * 3 + "--x--",
        )
    yield "noise", head.encode() + b"\n" + draw.randbytes(300_000)

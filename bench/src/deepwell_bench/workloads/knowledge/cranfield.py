"""The Cranfield collection: 1,400 abstracts of aeronautics, 225 questions, graded judgements."""

from __future__ import annotations

import re

from deepwell.knowledge.collection import Collection
from deepwell_bench.harness.assets import repository

__all__ = ["cranfield"]

_RECORD = re.compile(r"^\.I +\d+ *\n", re.MULTILINE)
_TITLE = re.compile(r"^\.T\n(.*?)^\.A", re.MULTILINE | re.DOTALL)


def cranfield() -> Collection:
    """Returns the collection. An abstract repeats its title, which is kept once.

    Queries are numbered in their order, as the judgements have it. Codes 1 (a complete answer) to 4 (of minimum interest)
    become grades 4 to 1; code -1, which no documentation explains and every query has once, becomes 0.
    """
    folder = repository() / "bench" / "data" / "cranfield"
    documents: dict[str, str] = {}
    for number, record in enumerate(_records((folder / "cran.all.1400").read_text(encoding="ascii")), 1):
        found = _TITLE.search(record)
        title = _folded(found.group(1)) if found else ""
        text = _folded(record.partition(".W\n")[2]).removeprefix(title).strip()
        documents[str(number)] = f"{title}\n{text}".strip()
    queries = {
        str(number): _folded(record.partition(".W\n")[2])
        for number, record in enumerate(_records((folder / "cran.qry").read_text(encoding="ascii")), 1)
    }
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "cranqrel").read_text(encoding="ascii").splitlines():
        query, document, code = line.split()
        qrels.setdefault(query, {})[document] = 5 - int(code) if int(code) > 0 else 0
    return Collection(documents, queries, qrels)


def _records(text: str) -> list[str]:
    return _RECORD.split(text)[1:]


def _folded(text: str) -> str:
    return " ".join(text.split())

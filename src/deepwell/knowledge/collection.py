"""`read_collection`: documents, queries and relevance judgements from a folder in BEIR's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepwell.errors import InvalidRequest

__all__ = ["Collection", "read_collection"]


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents, queries and judgements.

    Attributes:
        documents: texts by id; a title stands in front of the text, in a line of its own.
        queries: texts of those queries that have a relevant document, by id.
        qrels: grades by query and document; 0 is not relevant.
    """

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


def read_collection(folder: Path) -> Collection:
    """Reads a folder in BEIR's form: corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv.

    Raises:
        InvalidRequest: a file is missing or a line of it cannot be read, or no query has a relevant document.
    """
    documents: dict[str, str] = {}
    for row in _lines(folder / "corpus.jsonl"):
        title, text = str(row.get("title") or "").strip(), str(row.get("text") or "").strip()
        documents[str(row["_id"])] = f"{title}\n{text}".strip()
    queries = {str(row["_id"]): str(row["text"]) for row in _lines(folder / "queries.jsonl")}
    path = folder / "qrels.tsv"
    if not path.exists():
        path = folder / "qrels" / "test.tsv"
    qrels: dict[str, dict[str, int]] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = line.split("\t")
        if number == 1 and not cells[-1].strip().lstrip("-").isdigit():
            continue  # the heading
        if line.strip():
            try:
                query, document, grade = cells[0], cells[1], int(cells[2])
            except (IndexError, ValueError):
                raise _unreadable(path, number, "it is not query, document and grade") from None
            qrels.setdefault(query, {})[document] = max(0, grade)
    judged = {name: text for name, text in queries.items() if any(qrels.get(name, {}).values())}
    if not judged:
        raise InvalidRequest(
            f"no query of {folder} has a relevant document", fix="check the ids in the qrels"
        )
    return Collection(documents, judged, {name: qrels[name] for name in judged})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"{path} cannot be read: {error}",
            fix="give a folder with corpus.jsonl, queries.jsonl, and qrels.tsv or qrels/test.tsv",
        ) from None


def _lines(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(path, number, str(error)) from None
        if not isinstance(row, dict) or "_id" not in row or not isinstance(row.get("text"), str):
            raise _unreadable(path, number, "it has no _id or text")
        rows.append(row)
    return rows


def _unreadable(path: Path, number: int, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{path}, line {number}: {reason}", fix="correct the line")

"""Hostile documents end in a document or in an error of their own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from deepwell.errors import DeepwellError
from deepwell.knowledge.parse import process as process_module
from deepwell.knowledge.parse.process import ParseProcess
from deepwell_bench.workloads.knowledge.hostile_documents import HostileDocument, write_hostile_documents


def _defect(parser: ParseProcess, document: HostileDocument) -> str:
    """Returns what is wrong with the end of a document; empty if it was parsed or refused by name."""
    try:
        text = parser.parse_blocking("t", document.path, document.filename).text
    except DeepwellError as error:
        return "" if error.status < 500 and error.fix else f"{document.kind}/{document.name}: {error}"
    return "" if text.strip() else f"{document.kind}/{document.name}: no text"


@pytest.mark.slow
def test_each_ends_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "file_seconds", lambda _: 1.5)
    parser = ParseProcess()
    kinds: Counter[str] = Counter()
    try:
        for number, document in enumerate(write_hostile_documents(tmp_path / "store")):
            kinds[document.kind] += 1
            if number % 10 == 0:  # `deepwell bench documents` parses all
                assert not _defect(parser, document)
    finally:
        parser.close_blocking()
    assert kinds.total() >= 200 and len(kinds) >= 10
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert len(list((tmp_path / "store").iterdir())) == kinds.total()

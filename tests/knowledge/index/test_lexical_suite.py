"""The lexical index holds the suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepwell.knowledge.index.lexical import TantivyIndex
from deepwell.knowledge.index.testing import LexicalIndexTests


class TestInMemory(LexicalIndexTests):
    def make_index(self) -> TantivyIndex:
        return TantivyIndex()


class TestInFolder(LexicalIndexTests):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "index"

    def make_index(self) -> TantivyIndex:
        return TantivyIndex(self.folder)

    reopen_index = make_index

"""Parses and cuts hostile documents as a server does, and says how each went, how long it took and what memory it held.

It answers JSON lines: `write` makes the files and moves into an empty folder, `parse` parses the one of a number.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.errors import DeepwellError, MissingDependency
from deepwell.knowledge.chunk import chunk_document
from deepwell.knowledge.parse.process import ParseProcess
from deepwell.process.calls import SINGLE_TENANT
from deepwell.process.confinement.launch import walls
from deepwell_bench.workers.loop import answer_stream, serve
from deepwell_bench.workloads.knowledge.hostile_documents import HostileDocument, write_hostile_documents

__all__ = ["DocumentParser"]

_SAID = 300


class DocumentParser:
    """Keeps the list of documents and one parser for all."""

    def __init__(self) -> None:
        self._documents: list[HostileDocument] = []
        self._parser = ParseProcess()

    def write(self, folder: str, work: str, seed: int) -> dict[str, Any]:
        """Writes the documents and starts the child from the folder `work`."""
        os.chdir(work)
        self._documents = list(write_hostile_documents(Path(folder), seed=seed))
        self._parser._calls.start(SINGLE_TENANT)  # pyright: ignore[reportPrivateUsage]
        return {"count": len(self._documents), "confined": walls().whole}

    def parse(self, number: int) -> dict[str, Any]:
        """Returns the end of one in words, and whether it is a defect: neither a document nor an error that names a fix.

        `seconds` are those of parsing, `mb` the most memory of the child meanwhile, `chunk_seconds` those of cutting.
        """
        one = self._documents[number]
        pid = self._parser.pid
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the kernel forgets the most that there was
        broken = False
        chunk_seconds = 0.0
        begin = time.monotonic()
        try:
            document = self._parser.parse_blocking(SINGLE_TENANT, one.path, one.filename)
            seconds = time.monotonic() - begin
            chunks = chunk_document(document, _Words())
            chunk_seconds = time.monotonic() - begin - seconds
            said = f"document: {len(document.text)} characters, {len(chunks)} chunks"
            broken = not document.text.strip() or not chunks
        except DeepwellError as error:
            seconds = time.monotonic() - begin
            said = f"{type(error).__name__}: {error}"
            broken = error.status >= 500 and not isinstance(error, MissingDependency)  # scanned, without OCR
        except Exception as error:
            seconds = time.monotonic() - begin
            said, broken = f"{type(error).__name__}: {error}", True
        return {
            "name": f"{one.kind}/{one.name}",
            "said": said.encode("utf-8", "replace").decode()[:_SAID],
            "broken": broken,
            "seconds": seconds,
            "chunk_seconds": chunk_seconds,
            "mb": self._most_mb(pid),
        }

    def _most_mb(self, before: int) -> float:
        """Returns the most resident memory of the child: of the living one, or, where it was ended, of all that ended."""
        if self._parser.pid == before and before:
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{before}/status").read_text(encoding="ascii").splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) / 1024
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


class _Words:
    """Counts words, so that the measure is the chunker's own."""

    max_tokens = 508

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]


if __name__ == "__main__":
    serve(DocumentParser(), answer_stream())

"""Real text: a million tokens of news and abstracts in a fixed order, or one document whose parts belong together."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell.models.text.tokenizer import Tokenizer
from deepwell_bench.workloads.knowledge.cranfield import cranfield
from deepwell_bench.workloads.safety.manuals import manual_paragraphs
from deepwell_bench.workloads.tuning.labelled import bbc_news

__all__ = ["long_document", "long_text"]

_DOCUMENT: Final = "manpages/bpf-helpers.7"  # the longest manual page in English, some 30,000 tokens


def long_text(model: Path, count: int) -> list[int]:
    """Returns the first `count` tokens of articles of BBC News, then abstracts of Cranfield.

    News of all topics are mixed, in the order of their hashes, so that no part of the text is of another kind.

    Raises:
        DownloadError: the package of the news cannot be fetched.
        DeepwellError: the text is shorter.
    """
    tokenizer = Tokenizer.load(model)
    news = bbc_news()
    articles = sorted(
        (one.text for one in (*news.pool, *news.held_out)), key=lambda text: sha256(text.encode()).digest()
    )
    tokens: list[int] = []
    for text in (*articles, *cranfield().documents.values()):
        tokens += tokenizer.encode(f"{text.strip()}\n\n")
        if len(tokens) >= count:
            return tokens[:count]
    raise DeepwellError(f"the text has {len(tokens)} tokens", fix=f"use --tokens {len(tokens)} or less")


def long_document(model: Path, count: int) -> list[int]:
    """Returns the first `count` tokens of the manual page bpf-helpers(7), without its headings and examples.

    Raises:
        DownloadError: the package of the manual pages cannot be fetched.
        DeepwellError: the page is shorter.
    """
    paragraphs = [text for page, text in manual_paragraphs() if page == _DOCUMENT]
    tokens = Tokenizer.load(model).encode("\n\n".join(paragraphs))
    if len(tokens) < count:
        raise DeepwellError(
            f"the document has {len(tokens)} tokens", fix=f"use --length {len(tokens)} or less"
        )
    return tokens[:count]

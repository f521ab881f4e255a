"""`other_language` and `merged`: passages of the other language join the ranking of a question, in a store that has both.

NOTE: ranking.
  The store's alignment brings the vectors of both languages together; see `align`. A passage of the other language is near the
  question itself, or near a passage of the question's language that answers it well (a bridge):
    fit(own)     = cosine with the question + 0.2 * BM25 over that of the best
    fit(other)   = max over the 5 best own ones of (fit(own) + cosine with it) + cosine with the question
  The latter makes up for questions whose wording the encoder carries badly from one language to the other.

NOTE: the two as one list.
  Own passages keep the order and the scores of `fuse`. The other language's scores are the probability, by its best passage's
  cosine, that the store treats the subject in that language, in proportion to fit, over 1.25: in doubt the own language leads.
  Where the store treats the subject in both languages, neither list hides the other: the passage at place n is raised to the
  score of the n-th own one and follows it, so that the two alternate. That is taken to be so if the best 5 are as near to the
  bridges as translations are (mean cosine 0.45), and the other language has a fifth of the store: where it has less, a
  question's own language keeps its ten places.

NOTE: development data.
  All numbers were chosen on the development questions on the LibreOffice help (58 that ask across languages, 168 that do not,
  150 that it does not answer), over stores with all passages in both languages and with 5 % of one. On the 58, recall@10 of the
  passage in the other language rises from 0 to 64 %. What it costs the own language: nDCG@10 falls from 49.7 to 40.2 points
  where every passage is there in both (to 47.8 if the translation counts too), and to 48.7 where 5 % are of the other.
  `deepwell bench languages --development` measures this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from deepwell.knowledge.fuse import Calibration, Candidates, confidence_of
from deepwell.knowledge.index.protocol import Hits, VectorIndex
from deepwell.models.store.languages import is_chinese

if TYPE_CHECKING:
    from deepwell.knowledge.index.side import SideIndex

__all__ = ["Asked", "merged", "other_language"]

_BRIDGES: Final = 5  # passages of the question's language that lead to the other one
_LEXICAL_WEIGHT: Final = 0.2
_DOUBT: Final = 1.25
_LEADING: Final = 5  # passages of the other language that tell whether it treats the same
_MIN_NEARNESS: Final = 0.45  # mean cosine of these with the nearest bridge
_MIN_SHARE: Final = 0.2  # of the store's passages
_ALIGNED: Final = Calibration(unrelated=0.3, related=0.45)


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, and what both arms found for it.

    Attributes:
        text: the question.
        vector: float32 [dimensions].
        lexical: hits by words; None: that arm was not asked.
        candidates: vectors of what was found, if they were read already.
        limit: passages of the other language to look for.
        allowed: sorted keys that may be found. None: all.
    """

    text: str
    vector: NDArray[np.float32]
    lexical: Hits | None
    candidates: Candidates | None
    limit: int
    allowed: NDArray[np.int64] | None


def other_language(ranked: Hits, asked: Asked, side: SideIndex, vectors: VectorIndex) -> Hits | None:
    """Returns the ranking of the passages of the other language; None if there are none, or the store has no alignment.

    Args:
        ranked: the ranking of `fuse`.
        asked: the question.
        side: the side index of the store.
        vectors: the vectors of the store.
    """
    alignment = side.alignment
    if alignment is None or not len(ranked):
        return None
    chinese = is_chinese(asked.text)
    found = asked.candidates
    keys, rows = vectors.fetch(ranked.keys) if found is None else (found.keys, found.vectors)
    mine = side.chinese(keys) == chinese
    query = alignment.centred(asked.vector, first=not chinese)
    bridges, fit = _bridges(
        keys[mine], alignment.centred(rows[mine], first=not chinese), query, asked.lexical
    )
    # From here on everything lies among the vectors of the other language, which is the first if the question is Chinese.
    turned = alignment.turned(np.concatenate([query[None], bridges]), to_first=chinese)
    aim = turned[0] + turned[1:].mean(axis=0) if len(bridges) else turned[0]
    hits = vectors.search(alignment.leaning(aim, first=chinese), asked.limit, allowed=asked.allowed)
    keys, rows = vectors.fetch(hits.keys)
    theirs = side.chinese(keys) != chinese
    if not theirs.any():
        return None
    keys, rows = keys[theirs], alignment.centred(rows[theirs], first=chinese)
    cosines = np.einsum("ij,kj->ik", turned, rows).astype(np.float64)  # [1 + bridges, passages]
    direct, near = cosines[0], cosines[1:]
    score = direct + (near + fit[:, None]).max(axis=0) if len(bridges) else direct
    order = np.lexsort((keys, -score))
    scores = _scored(score[order], float(direct[order[0]]))
    nearness = float(near[:, order[:_LEADING]].max(axis=0).mean()) if len(bridges) else 0.0
    if nearness >= _MIN_NEARNESS and side.share(chinese=not chinese) >= _MIN_SHARE:
        places = ranked.scores[side.chinese(ranked.keys) == chinese]
        both = min(len(places), len(scores))
        scores[:both] = np.maximum(scores[:both], places[:both])
    return Hits(keys[order], scores)


def _bridges(
    keys: NDArray[np.int64], rows: NDArray[np.float32], query: NDArray[np.float32], lexical: Hits | None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Returns the vectors [n, dimensions] of the own passages that fit the question best, and how well they do [n]."""
    fit = np.einsum("ij,j->i", rows, query).astype(np.float64)
    if lexical is not None and len(lexical):
        words = dict(zip(lexical.keys.tolist(), (lexical.scores / lexical.scores[0]).tolist(), strict=True))
        fit += _LEXICAL_WEIGHT * np.array([words.get(key, 0.0) for key in keys.tolist()])
    best = np.lexsort((keys, -fit))[:_BRIDGES]
    return rows[best], fit[best]


def _scored(fit: NDArray[np.float64], cosine: float) -> NDArray[np.float32]:
    """Returns scores from 0 to 1 for falling fits [n]; `cosine` is the best passage's with the question."""
    confidence = confidence_of(_ALIGNED.nearness(cosine), None) / _DOUBT
    spread = float(fit[0] - fit[-1])
    relative = (fit - fit[-1]) / spread if spread > 0 else np.ones(len(fit))
    return (confidence * relative).astype(np.float32)


def merged(ranked: Hits, other: Hits) -> Hits:
    """Returns a ranking with that of the other language in it, by score; of equal scores, the ranking's first.

    A passage of both has its better score.
    """
    keys = np.concatenate([ranked.keys, other.keys])
    scores = np.concatenate([ranked.scores, other.scores])
    later = np.arange(len(keys)) >= len(ranked)
    order = np.lexsort((keys, later, -scores))
    _, first = np.unique(keys[order], return_index=True)
    order = order[np.sort(first)]
    return Hits(keys[order], scores[order])

"""The vocabulary of names for images: emoji of the training part, their captions and the words about them.

A word and its translation are found by the emoji that have both, and by how near their vectors lie.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from deepwell.media.images.training.pictures import Picture
from deepwell.media.space.heads import Array, unit
from deepwell.media.space.tags import MOST_TAGS, Name, Vocabulary, VocabularyLimits

__all__ = ["learnt_limits", "names_of", "vocabulary_of", "words_of"]

_ENGLISH: Final = re.compile(r"[a-z][a-z -]+")
_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]{1,4}")
_LEAST: Final = {2: 0.6, 1: 0.85}
"""Least sum of half the share of emoji that two words have in common, and of their cosine; by emoji with both."""

_MOST_WORDS: Final = 4
_RIGHT: Final = 0.5
"""Share of the names given that shall be right."""

# No picture is named by what a person is, believes or suffers from, nor by what a guess may insult.
_PRIVATE: Final = re.compile(
    r"afric|aids|america|arab|asia|australia|autis|bald|billionaire|blind|breast|buddh|chinese|christ|cigar|coffin|couple|deaf"
    r"|disab|disease|drug|europe|feces|fatima|feeding|french|funeral|gay|guapi|handicap|hijab|hindu|indian|injur|irish|islam"
    r"|japan|jew|judai|khalsa|kidney|kneel|latin|lgbt|lust|men holding|menor|menstr|mexic|middle finger|miriam|muslim|orthodox"
    r"|poo|pray|pregnan|prosthe|queer|relig|sex|shirtless|sick|sikh|skullcap|stink|therap|thong|transgender|turban|ugly|vomit"
    r"|wheelchair|women holding|younger|elderly|adult|bisexual|organ|absorbing|mouthless|unimpressed|non-|skin|swear|stain|hajj"
    r"|love hotel|khanda|david|hamsa|headscarf|older person|old man|eighteen|bae$|lai$|mary$|nyc$|hearing aid|crutch"
    r"|red hair|white hair"
    r"|temple|kaaba|menorah|om$|dharma|crescent|mosque|synagogue|probing|nuptials|drunk|intoxicat|poor|rich|wealthy"
)


def names_of(pictures: Sequence[Picture], vectors: Callable[[Sequence[str]], Array]) -> list[Name]:
    """Returns the words and captions of emoji in both languages.

    Args:
        pictures: emoji of the training part.
        vectors: returns unit vectors of texts, in the space.
    """
    words = [Name(english, chinese, caption=False) for english, chinese in _translated(pictures, vectors)]
    found: dict[str, Name] = {}
    for row in pictures:
        plain = row.titles_zh and ":" not in row.title and len(row.title.split()) <= _MOST_WORDS
        if plain and not row.family.startswith("series") and not _PRIVATE.search(row.title.lower()):
            found.setdefault(row.family, Name(row.title, row.titles_zh[0], caption=True))
    return [*words, *found.values()]


def _translated(
    pictures: Sequence[Picture], vectors: Callable[[Sequence[str]], Array]
) -> list[tuple[str, str]]:
    """Returns the pairs of words that are each other's best translation."""
    sets = [({tag.lower() for tag in row.tags}, set(row.tags_zh)) for row in pictures]
    english = Counter(word for words, _ in sets for word in words if _ENGLISH.fullmatch(word))
    chinese = Counter(word for _, words in sets for word in words if _CHINESE.fullmatch(word))
    both = Counter(
        (one, other)
        for words, others in sets
        for one in words & english.keys()
        for other in others & chinese.keys()
    )
    places = {word: place for place, word in enumerate((*english, *chinese))}
    near = vectors(list(places))
    scores: dict[tuple[str, str], float] = {}
    best: dict[str, tuple[float, str]] = {}
    for (one, other), count in sorted(both.items()):
        cosine = float(near[places[one]] @ near[places[other]])
        score = scores[one, other] = count / (english[one] + chinese[other]) + cosine
        for word, partner in ((one, other), (other, one)):
            if word not in best or score > best[word][0]:
                best[word] = score, partner
    return [
        (one, other)
        for (one, other), score in scores.items()
        if best[one][1] == other
        and best[other][1] == one
        and score >= _LEAST[min(both[one, other], 2)]
        and not _PRIVATE.search(one)
    ]


def vocabulary_of(
    names: Sequence[Name], vectors: Callable[[Sequence[str]], Array], images: Array
) -> Vocabulary:
    """Returns a vocabulary. The vector of a name is the mean of both languages.

    Args:
        images: vectors of training pictures, from which is learnt what a name has in common with any of them.
    """
    mean = unit(vectors([one.name for one in names]) + vectors([one.name_zh for one in names]))
    return Vocabulary(names, mean, (images @ mean.T).mean(0))


def words_of(picture: Picture) -> set[str]:
    """Returns the words and the tags that describe a picture."""
    texts = [text.lower() for text in (picture.title, *picture.tags)]
    return {*texts, *(word for text in texts for word in re.findall(r"[a-z-]+", text))}


def learnt_limits(vocabulary: Vocabulary, images: Array, pictures: Sequence[Picture]) -> VocabularyLimits:
    """Returns the least scores at which half of the names given are right for some pictures.

    A word is right if it describes the picture, a caption if one of its words does.
    """
    scores = vocabulary.scores(images)
    found: list[float] = []
    for captions, most in ((False, MOST_TAGS), (True, 1)):
        places = np.array([place for place, one in enumerate(vocabulary.names) if one.caption is captions])
        given: list[tuple[float, bool]] = []
        for row, picture in zip(scores, pictures, strict=True):
            true = words_of(picture)
            for place in places[np.argsort(-row[places], kind="stable")[:most]]:
                name = vocabulary.names[place].name.lower()
                given.append((float(row[place]), name in true or bool(captions and true & {*name.split()})))
        found.append(_least(given))
    return VocabularyLimits(*found)


def _least(given: Iterable[tuple[float, bool]]) -> float:
    """Returns the lowest score above which the wanted share is right; 1 if there is none."""
    right, least = 0, 1.0
    for count, (score, good) in enumerate(sorted(given, reverse=True), 1):
        right += good
        if right >= _RIGHT * count:
            least = round(score, 3)
    return least

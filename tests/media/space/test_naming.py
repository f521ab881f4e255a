"""The vocabulary of names: words with their translations, none about persons, and limits that half of the names given meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deepwell.media.images.training.pictures import Picture
from deepwell.media.space.heads import DIMENSIONS, Array
from deepwell.media.space.tags import Name, Vocabulary
from deepwell.media.space.training.naming import learnt_limits, names_of, vocabulary_of

_MEANINGS = {"dog": 0, "狗": 0, "animal": 1, "动物": 1, "cat": 2, "猫": 2, "mosque": 3, "清真寺": 3}


def vectors(texts: Sequence[str]) -> Array:
    """Returns vectors that are equal where texts mean the same."""
    found = np.zeros((len(texts), DIMENSIONS), np.float32)
    for row, text in zip(found, texts, strict=True):
        row[_MEANINGS.get(text, 9)] = 1
    return found


def picture(title: str, title_zh: str, tags: str, tags_zh: str, family: str = "") -> Picture:
    return Picture(
        title, "emoji", title, (title_zh,), tuple(tags.split()), tuple(tags_zh.split()), family or title
    )


PICTURES = [
    picture("dog", "狗", "dog animal", "狗 动物"),
    picture("cat", "猫", "cat animal", "猫 动物"),
    picture("mosque", "清真寺", "mosque", "清真寺"),
    picture("flag: Grenada", "旗: 格林纳达", "flag", "旗"),
    picture("two o'clock", "两点", "clock", "时钟", "series o'clock"),
    picture("a very long name of it", "长", "thing", "东西"),
]


def test_words_have_their_translations_and_captions_are_short() -> None:
    names = names_of(PICTURES, vectors)
    words = {one.name: one.name_zh for one in names if not one.caption}
    assert words["animal"] == "动物" and words["dog"] == "狗" and words["cat"] == "猫"
    assert [one.name for one in names if one.caption] == ["dog", "cat"]
    assert "mosque" not in words


def test_what_a_name_has_in_common_with_any_picture_is_taken_away() -> None:
    names = [Name("dog", "狗", caption=False), Name("animal", "动物", caption=False)]
    images = vectors(["animal", "animal", "dog"])
    found = vocabulary_of(names, vectors, images)
    np.testing.assert_allclose(found.scores(vectors(["dog"]))[0], [1 - 1 / 3, -2 / 3], atol=1e-6)


def test_limits_are_those_at_which_half_of_the_names_are_right() -> None:
    names = [Name("dog", "狗", caption=False), Name("a dog", "一只狗", caption=True)]
    both = np.zeros((2, DIMENSIONS), np.float32)
    both[:, 0] = 1
    vocabulary = Vocabulary(names, both, np.zeros(2, np.float32))
    images = np.zeros((4, DIMENSIONS), np.float32)
    images[:, 0] = [0.9, 0.8, 0.7, 0.6]
    shown = [PICTURES[0], PICTURES[1], PICTURES[1], PICTURES[1]]
    limits = learnt_limits(vocabulary, images, shown)
    assert limits.tag == limits.caption == 0.8
    assert learnt_limits(vocabulary, images, [PICTURES[1]] * 4).tag == 1.0

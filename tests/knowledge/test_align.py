"""Two languages that differ by an offset and a rotation are brought together without labelled pairs."""

import numpy as np
import pytest

from deepwell.knowledge.align import learn_alignment
from deepwell.models.store.languages import is_chinese


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def languages():
    draw = np.random.default_rng(3)
    meaning = draw.normal(size=(1200, 24))
    left, _, right = np.linalg.svd(np.eye(24) + 0.05 * draw.normal(size=(24, 24)))
    first = _unit(meaning + draw.normal(size=24))
    second = _unit(meaning @ left @ right + draw.normal(size=24))
    return first, second


def test_translations_become_nearest(languages):
    first, second = languages
    before = np.mean(np.argmax(first @ second.T, axis=1) == np.arange(len(first)))
    alignment = learn_alignment(first, second)
    assert alignment is not None
    assert np.allclose(alignment.rotation @ alignment.rotation.T, np.eye(24), atol=1e-4)
    one = alignment.centred(first, first=True)
    other = alignment.turned(alignment.centred(second, first=False), to_first=True)
    after = np.mean(np.argmax(one @ other.T, axis=1) == np.arange(len(first)))
    assert after > 0.95 > 0.9 > before


def test_a_turned_query_finds_the_other_language_in_an_index_of_both(languages):
    first, second = languages
    alignment = learn_alignment(first, second)
    assert alignment is not None
    both = np.concatenate([first, second])
    asked = alignment.turned(alignment.centred(first[7], first=True), to_first=False)
    assert int(np.argmax(both @ alignment.leaning(asked, first=False))) == len(first) + 7
    asked = alignment.turned(alignment.centred(second[9], first=False), to_first=True)
    assert int(np.argmax(both @ alignment.leaning(asked, first=True))) == 9


def test_the_smaller_language_may_be_either(languages):
    first, second = languages
    for one, other in ((first, second[:700]), (first[:700], second)):
        alignment = learn_alignment(one, other)
        assert alignment is not None
        assert alignment.pairs >= 600
        turned = alignment.turned(alignment.centred(other[:50], first=False), to_first=True)
        nearest = np.argmax(turned @ alignment.centred(one, first=True).T, axis=1)
        assert np.mean(nearest == np.arange(50)) > 0.95


def test_it_can_be_stopped(languages):
    assert learn_alignment(*languages, stop=lambda: True) is None


def test_few_passages_are_not_aligned(languages):
    first, second = languages
    assert learn_alignment(first[:100], second) is None


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("在 LibreOffice Writer 中插入脚注", True),
        ("Insert a footnote", False),
        ("123 + 456", False),
        ("", False),
        ("The sign 中 alone", False),
    ],
)
def test_language_is_told_by_han(text, chinese):
    assert is_chinese(text) is chinese

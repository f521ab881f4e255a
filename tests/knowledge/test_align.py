"""Two languages that differ by an offset and a rotation are brought together without labelled pairs."""

import numpy as np
import pytest

from deepwell.knowledge.align import across, interleaved, is_chinese, learn_alignment


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
    one, other = alignment.common(first, of_first=True), alignment.common(second, of_first=False)
    after = np.mean(np.argmax(one @ other.T, axis=1) == np.arange(len(first)))
    assert after > 0.95 > 0.9 > before


def test_a_mapped_query_searches_raw_vectors(languages):
    first, second = languages
    alignment = learn_alignment(first, second)
    assert alignment is not None
    _, over = alignment.from_first(first[7])
    assert int(np.argmax(second @ over)) == 7
    _, back = alignment.from_second(second[9])
    assert int(np.argmax(first @ back)) == 9


def test_few_passages_are_not_aligned(languages):
    first, second = languages
    assert learn_alignment(first[:100], second) is None


def test_a_passage_of_the_own_language_leads_to_its_translation():
    own = _unit(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    other = _unit(np.array([[0.9, 0.1, 0.1], [0.0, 0.0, 1.0]]))
    ours, theirs = across(own, other, own[0], np.array([1.0, 0.0]))
    assert ours.argmax() == 0
    assert theirs.argmax() == 0


def test_lists_are_taken_by_turns():
    merged = interleaved(np.array([5, 6, 7]), np.array([1]), 4)
    assert merged == [(0, 5), (1, 1), (0, 6), (0, 7)]


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

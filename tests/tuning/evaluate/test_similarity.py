"""Similarities of texts, beside the values of sacreBLEU 2.5, rouge-score 0.1, RapidFuzz 3 and NLTK 3.9."""

from __future__ import annotations

import tracemalloc

import pytest

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.similarity import (
    METRICS,
    bleu,
    chrf,
    corpus_bleu,
    fuzzy_match,
    gleu,
    meteor,
    rouge_l,
    similarity,
)

ONE = "The quick brown fox jumps over the lazy dog near the river bank."
OTHER = "A quick brown fox jumped over the lazy dogs near a river."

KNOWN = {
    "fuzzy_match": 0.859504132231405,
    "bleu": 0.19674979811155635,
    "chrf": 0.6843457432382464,
    "gleu": 0.3,
    "meteor": 0.521694214876033,
    "rouge_1": 0.64,
    "rouge_2": 0.34782608695652173,
    "rouge_3": 0.1904761904761905,
    "rouge_4": 0.0,
    "rouge_5": 0.0,
    "rouge_l": 0.64,
}


@pytest.mark.parametrize("metric", KNOWN)
def test_values_are_those_of_the_reference_packages(metric: str):
    assert similarity(metric, ONE, OTHER) == pytest.approx(KNOWN[metric], abs=1e-12)


def test_bleu_smooths_and_shortens_as_sacrebleu():
    assert bleu("the cat", "the cat sat on the mat") == pytest.approx(0.13533528323661276)
    assert bleu("one two three four five", "one two x four y") == pytest.approx(0.23643540225079385)
    pairs = [(ONE, OTHER), ("the cat sat on the mat", "the cat is on the mat")]
    assert corpus_bleu(pairs) == pytest.approx(0.20662920459484507)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "text", ["The cat sat on the mat, twice.", "今天的天气很好", "Ünïcode 𝕏 emoji 🙂🙂 too, yes"]
)
def test_a_text_is_most_similar_to_itself_and_not_to_nothing(metric: str, text: str):
    floor = 0.99 if metric == "meteor" else 1.0  # METEOR charges for its one chunk
    assert similarity(metric, text, text) >= floor - 1e-9
    assert similarity(metric, "", text) == 0
    assert similarity(metric, text, "") == 0


def test_chinese_is_compared_by_characters():
    assert fuzzy_match("今天天气很好", "今天的天气不好") == pytest.approx(0.7692307692307692)
    assert rouge_l("今天天气很好", "今天的天气不好") == pytest.approx(2 * 5 / 13)
    assert 0 < gleu("今天天气很好", "今天的天气不好") < 1
    assert 0 < chrf("今天天气很好", "今天的天气不好") < 1


def test_meteor_counts_as_few_chunks_as_it_can():
    # Three chunks of six words: 1 - 0.5 * (3 / 6)^3
    assert meteor("on the mat sat the cat", "the cat sat on the mat") == pytest.approx(0.9375)


@pytest.mark.parametrize("metric", METRICS)
def test_long_repetitive_texts_end(metric: str):
    assert 0 <= similarity(metric, "a " * 5000, "a b " * 2500) <= 1


def test_too_long_texts_and_unknown_metrics_are_refused():
    with pytest.raises(InvalidRequest, match="longer than 100000"):
        similarity("fuzzy_match", "a" * 100_001, "a")
    with pytest.raises(InvalidRequest, match="no similarity 'bertscore'"):
        similarity("bertscore", "a", "b")


def test_rare_and_frequent_characters_count_alike():
    """The longest common subsequence, beside the textbook's table."""
    one, other = "abacad" * 9 + "xyz", "xbayc" * 11 + "adda"
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert fuzzy_match(one, other) == 2 * table[-1][-1] / (len(one) + len(other))


def test_a_text_of_different_characters_takes_little_memory():
    """A mask of 50,000 bits for each of 50,000 characters would take 160 MB, and four times that at the limit."""
    text = "".join(map(chr, range(0x20000, 0x20000 + 50_000)))
    tracemalloc.start()
    try:
        assert fuzzy_match(text, text) == 1
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()

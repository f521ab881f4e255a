"""The sentences that are read aloud are the frozen ones, and their errors are counted as edits."""

from __future__ import annotations

import pytest

from deepwell.media.speech.pronounce import language_of, pieces_of
from deepwell_bench.workloads.media.sentences import edits, spoken_sentences


def test_fifty_sentences_in_each_language_can_be_said() -> None:
    found = spoken_sentences()
    assert {language: len(set(texts)) for language, texts in found.items()} == {"zh": 50, "en": 50}
    for language, texts in found.items():
        assert all(language_of(text) == language and pieces_of(text) for text in texts)


@pytest.mark.parametrize(
    ("said", "heard", "count"),
    [
        ("abc", "abc", 0),
        ("abc", "", 3),
        ("", "ab", 2),
        ("abcd", "axcd", 1),
        ("abcd", "bcde", 2),
        ("ab", "ba", 2),
    ],
)
def test_edits(said: str, heard: str, count: int) -> None:
    assert edits([*said], [*heard]) == count

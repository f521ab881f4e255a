"""Cutting text into what is said in one go: nothing is lost, nothing is too long, whatever the text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.media.speech.pronounce import language_of, pieces_of
from deepwell.media.speech.split import MOST_CHARACTERS, Piece, clean, cut_phonemes, split_text

WRITTEN = st.text(st.sampled_from("ab Z9.,!?;:。，！？；…“”()（）\n\t—-'今天好\u3000Ａ🙂"), max_size=2000)


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


@given(WRITTEN)
def test_no_letter_is_lost_and_no_piece_is_too_long(text: str) -> None:
    text = clean(text)
    pieces = split_text(text)
    assert "".join(letters(piece.text) for piece in pieces) == letters(text)
    for piece in pieces:
        assert letters(piece.text)
        assert sum(3 if character >= "\u2e80" else 1 for character in piece.text) <= MOST_CHARACTERS + 3


@given(st.text(max_size=500))
def test_any_text_is_cleaned_without_control_characters(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u200b-\u200f\ufeff]", clean(text))


@given(st.text("aˈ ə", max_size=2000), st.integers(1, 400))
def test_phonemes_are_cut_below_the_limit(phonemes: str, most: int) -> None:
    pieces = cut_phonemes(phonemes, most)
    assert all(len(piece) <= most for piece in pieces)
    assert "".join(pieces).replace(" ", "") == phonemes.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Hello.", [("Hello.", "sentence")]),
        ("Dr. Smith paid 3.50 to J. Doe. He left.", [("Dr. Smith paid 3.50 to J. Doe.", "sentence"), ("He left.", "sentence")]),
        ("你好。今天天气很好！", [("你好。", "sentence"), ("今天天气很好！", "sentence")]),
        ("One two three four\n\nFive six seven", [("One two three four", "paragraph"), ("Five six seven", "sentence")]),
        ("“Is it you?” she asked.", [("“Is it you?”", "sentence"), ("she asked.", "sentence")]),
        ("... 🙂 !", []),
    ],
)  # fmt: skip
def test_sentences(text: str, pieces: list[tuple[str, str]]) -> None:
    assert [(piece.text, piece.pause) for piece in split_text(text)] == pieces


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "好" * 300_000,
        "." * 300_000 + "x",
        "," * 300_000 + "1",
        "Mr. " * 80_000,
        "a, " * 100_000,
        "1" * 300_000,
    ],
    ids=lambda text: text[:4],
)
def test_hostile_text_is_cut_to_its_end(text: str) -> None:
    pieces = split_text(clean(text))
    assert "".join(letters(piece.text) for piece in pieces) == letters(text)


def test_the_first_sound_does_not_wait_for_a_long_sentence() -> None:
    text = "When the rain had ended at last, the children ran out of the house, and they played until it was dark."
    first, *rest = split_text(text)
    assert first == Piece("When the rain had ended at last,", "clause")
    assert len(rest) == 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("你好", "zh"),
        ("hello", "en"),
        ("用 GPT 4 写一段话", "zh"),
        ("The word 你 means you", "en"),
        ("123", "en"),
    ],
)
def test_the_language_of_most_of_a_text(text: str, language: str) -> None:
    assert language_of(text) == language


@pytest.mark.parametrize("text", ["", " \n", "🙂" * 100_000, "\x00\x01\u200b", "...!?", "—" * 5000])
def test_text_without_words_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no word that can be said"):
        pieces_of(text)


@pytest.mark.parametrize("text", ["こんにちは", "привет", "hello שלום", "안녕", "مرحبا"])
def test_letters_of_other_scripts_are_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidRequest, match="Chinese and English are read"):
        pieces_of(text)

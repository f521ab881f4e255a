"""Streaming detokenisation and stop strings against oracles that see the whole text at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.models.text.detokenizer import Detokenizer, StopStrings
from deepwell.models.text.tokenizer import Tokenizer


def chunks(items: Sequence, cuts: Sequence[int]) -> list:
    edges = [0, *sorted(c % (len(items) + 1) for c in cuts), len(items)]
    return [items[a:b] for a, b in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 200), max_size=12)


@given(data=st.data(), cuts=CUTS)
def test_pieces_joined_equal_the_full_decode(
    byte_tokenizer: Tokenizer, data: st.DataObject, cuts: list[int]
) -> None:
    ids = data.draw(st.lists(st.integers(0, byte_tokenizer.vocab_size - 1), max_size=60))
    detokenizer = Detokenizer(byte_tokenizer)
    pieces = [detokenizer.push(chunk) for chunk in chunks(ids, cuts)]
    assert "".join(pieces) + detokenizer.finish() == byte_tokenizer.decode(ids)


@given(text=st.text(max_size=40))
def test_no_piece_holds_half_a_character(plain_tokenizer: Tokenizer, text: str) -> None:
    detokenizer = Detokenizer(plain_tokenizer)
    ids = [plain_tokenizer.encode(character, allow_special=False) for character in text]
    for character, bytes_of_it in zip(text, ids, strict=True):
        assert "".join(detokenizer.push([i]) for i in bytes_of_it[:-1]) == ""
        assert detokenizer.push(bytes_of_it[-1:]) == character
    assert detokenizer.finish() == ""


def test_invalid_and_unfinished_bytes_become_replacement_characters(byte_tokenizer: Tokenizer) -> None:
    euro = byte_tokenizer.encode("€", allow_special=False)
    detokenizer = Detokenizer(byte_tokenizer)
    assert detokenizer.push(euro[:2]) == ""
    assert detokenizer.push(byte_tokenizer.encode("a")) == "�a"
    assert detokenizer.push(euro[1:2]) == "�"
    assert detokenizer.push(euro[:1]) == ""
    assert detokenizer.finish() == "�"


def test_control_tokens_are_skipped_without_breaking_a_character(byte_tokenizer: Tokenizer) -> None:
    first, *rest = byte_tokenizer.encode("é", allow_special=False)
    (control,) = byte_tokenizer.encode("<|im_end|>")
    detokenizer = Detokenizer(byte_tokenizer)
    assert [detokenizer.push([i]) for i in (first, control, *rest)] == ["", "", "é"]


def stop_oracle(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The shortest prefix of `text` that ends with a stop string decides; the longest such string is cut off."""
    for end in range(1, len(text) + 1):
        if found := [stop for stop in stops if text[:end].endswith(stop)]:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(
    text=st.text("ab<", max_size=30),
    stops=st.lists(st.text("ab<", min_size=1, max_size=5), max_size=4),
    cuts=CUTS,
)
def test_stop_strings_equal_the_oracle_under_any_chunking(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    matcher, emitted, matched = StopStrings(stops), "", None
    for chunk in chunks(text, cuts):
        safe, matched = matcher.push(chunk)
        emitted += safe
        assert stop_oracle(text, stops)[0].startswith(emitted)
    emitted += matcher.flush()
    assert (emitted, matched) == stop_oracle(text, stops)


def test_text_that_cannot_become_a_stop_string_is_not_held_back() -> None:
    matcher = StopStrings(["</answer>"])
    assert matcher.push("4 < 5 </ans") == ("4 < 5 ", None)
    assert matcher.push("ert </answer") == ("</ansert ", None)
    assert matcher.push(">tail") == ("", "</answer>")
    assert matcher.push("more") == ("", "</answer>")
    assert matcher.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        StopStrings(["a", ""])

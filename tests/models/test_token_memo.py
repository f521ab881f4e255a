"""Tokens of pieces that are sent again: the same as without a memo, and an owner's own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.fakes import make_codec

from deepwell.dialogue.text import Codec
from deepwell.models.text.chat_template import render_chat
from deepwell.models.text.token_memo import TokenPieces


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("tokenizer"))


KNOWN = ["", "ok", "<|im_start|>", "a b " * 60, "北京的仓库。" * 40, "x" * 127, "y" * 128]
TEXTS = st.sampled_from(KNOWN) | st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TEXTS, min_size=1, max_size=6), min_size=1, max_size=4))
def test_tokens_are_the_same_as_without_a_memo(codec: Codec, talks: list[list[str]]) -> None:
    pieces = TokenPieces(most_bytes=2_000)
    for talk in talks:
        messages = [{"role": "user", "content": text} for text in talk]
        chat = render_chat(codec._tokenizer, codec._template, messages)  # type: ignore[arg-type]
        assert chat.encode(memo=pieces.of("a")) == codec.encode_chat(messages)
        assert pieces.nbytes <= 2_000


def test_a_piece_is_tokenised_once_for_each_owner() -> None:
    made: list[str] = []

    def encode(text: str) -> list[int]:
        made.append(text)
        return [len(text)]

    pieces = TokenPieces()
    for owner in ("a", "a", "b", "b", "a"):
        assert pieces.of(owner).of("text", encode) == [4]
    assert made == ["text", "text"]


def test_the_pieces_used_longest_ago_are_dropped() -> None:
    made: list[str] = []

    def encode(text: str) -> list[int]:
        made.append(text)
        return [1]

    memo = TokenPieces(most_bytes=8).of("a")
    for text in ("one", "two", "one", "three", "one", "two"):
        memo.of(text, encode)
    assert made == ["one", "two", "three", "two"]

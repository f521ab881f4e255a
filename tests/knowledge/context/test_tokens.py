"""Contracts of placing tokens in texts."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.tokens import CodecTokens, tokens_between


class Letters:
    """A codec with a token a byte pair of the text, which it first brings into a form of Unicode."""

    def __init__(self, form: str | None = None, *, lower: bool = False) -> None:
        self._form, self._lower = form, lower
        self._bytes: list[bytes] = []

    def encode_text(self, text: str) -> list[int]:
        text = unicodedata.normalize(self._form, text) if self._form else text
        data = (text.replace("a", "") if self._lower else text).encode()
        self._bytes = [data[at : at + 2] for at in range(0, len(data), 2)]
        return list(range(len(self._bytes)))

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]


@pytest.mark.parametrize("codec", [Letters(), Letters("NFC"), Letters(lower=True)])
@given(text=st.text(alphabet="ab é\u0301e한\u1112\u1161\u11ab😀中", max_size=30))
@settings(max_examples=60, deadline=None)
def test_every_token_begins_inside_the_text(codec: Letters, text: str) -> None:
    starts = CodecTokens(codec).starts(text)
    assert len(starts) == CodecTokens(codec).count(text)
    assert (np.diff(starts) >= 0).all()
    assert not len(starts) or (starts[0] >= 0 and starts[-1] < len(text))


def test_a_token_lies_where_its_first_byte_does() -> None:
    assert CodecTokens(Letters()).starts("ab中d").tolist() == [0, 2, 2]
    # The letter and its accent are one character of the normalised text.
    assert CodecTokens(Letters("NFC")).starts("abe\u0301d").tolist() == [0, 2, 4]


def test_a_models_tokens_add_up(smollm2_path: Path) -> None:
    tokens = CodecTokens(Codec.load(smollm2_path))
    text = "Hello there. Bar 48213.\n\nNew é 😀 line. 你好，世界。"
    starts = tokens.starts(text)
    assert len(starts) == tokens.count(text)
    edges = [0, 12, 24, len(text)]
    parts = [tokens_between(starts, a, b) for a, b in itertools.pairwise(edges)]
    assert sum(parts) == len(starts)
    assert parts[0] == tokens.count(text[:12])

"""The compiled loops over characters do what their versions in numpy and Python do, bit for bit, on any text."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.needs import NATIVE

from deepwell.safety import compiled
from deepwell.safety.classifier import sums as sums_module
from deepwell.safety.classifier.sums import gram_sums, numpy_gram_sums
from deepwell.safety.normalise import normalised
from deepwell.safety.readings import encodings, joined
from deepwell.safety.readings import fold as fold_module
from deepwell.safety.readings import leet as leet_module
from deepwell.safety.readings.english import pair_scores
from deepwell.safety.readings.fold import fold, numpy_fold_codes
from deepwell.safety.readings.joined import numpy_joined_places
from deepwell.safety.readings.leet import numpy_leet_codes
from deepwell.safety.readings.tables import fold_tables
from deepwell.safety.readings.view import View, codes_of, positions
from deepwell.safety.terms import index as index_module
from deepwell.safety.terms.index import TermIndex

native: Any = compiled.extension()
needs_native = pytest.mark.needs(NATIVE)

TABLE = np.random.default_rng(17).integers(-128, 128, (1 << 18, 4), dtype=np.int8)

# Characters that rules look at, in the mixtures in which they look at them.
MIXED = st.text(
    st.sampled_from(
        [*"aabcZ019 .,-!()\n=+/_{}|\t\x1c\x85\u3000法轮功一三十㐀鿿龥é×\u200b\ud800\U0001f600\U00020000"]
    ),
    max_size=120,
)
TEXTS = st.one_of(
    st.text(max_size=200), MIXED, st.lists(st.one_of(MIXED, st.text(max_size=30))).map(" ".join)
)


@pytest.fixture
def without_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (joined, encodings, fold_module, leet_module, index_module, sums_module):
        monkeypatch.setattr(module, "extension", lambda: None)


def assert_same(left: Any, right: Any) -> None:
    """Asserts that two results are the same array, or both None."""
    assert (left is None) == (right is None)
    assert left is None or (left.dtype == right.dtype and np.array_equal(left, right))


@needs_native
@given(TEXTS)
def test_sums_of_n_grams_are_the_same(text: str) -> None:
    one, other = gram_sums(text, TABLE), numpy_gram_sums(text, TABLE)
    for name in ("kept", "sums", "totals"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype
        assert np.array_equal(left, right), name
    assert one.words == other.words


@needs_native
def test_sums_of_long_words_and_texts_are_the_same() -> None:
    draw = random.Random(17)
    for text in ("a" * 100, "x" * 47 + "y" * 3 + " " + "z" * 48, "".join(draw.choices("ab0 .法", k=40_000))):
        one, other = gram_sums(text, TABLE), numpy_gram_sums(text, TABLE)
        assert np.array_equal(one.sums, other.sums)
        assert np.array_equal(one.totals, other.totals)


@needs_native
@given(TEXTS)
def test_what_is_joined_is_the_same(text: str) -> None:
    folded = fold(View("", text, positions(len(text) + 1)))
    one = native.joined_places(folded.codes, folded.classes)
    other = numpy_joined_places(folded.codes, folded.classes)
    assert (one is None) == (other is None)
    for left, right in zip(one or (), other or (), strict=True):
        assert_same(left, right)


@needs_native
@given(TEXTS.filter(lambda text: "\b" not in text))
def test_what_is_folded_is_the_same(text: str) -> None:
    tables = fold_tables()
    codes = codes_of(text)
    one = native.fold_codes(codes, tables.folded, tables.expansions, tables.classes)
    for left, right in zip(one, numpy_fold_codes(codes), strict=True):
        assert_same(left, right)


@needs_native
@given(st.one_of(TEXTS, st.text("aelx013679@$!|+^([{<)]}> .", max_size=60)))
def test_what_is_read_as_leet_is_the_same(text: str) -> None:
    codes = codes_of(text)
    assert_same(native.leet_codes(codes, pair_scores()), numpy_leet_codes(codes))


INDEX = TermIndex(["法轮", "法轮功", "一三", "ab", "abc", "0a b", "c法", "é×", "𠀀\U0001f600功"])


@needs_native
@given(TEXTS.filter(lambda text: len(text) > 1))
def test_places_of_terms_are_the_same(text: str) -> None:
    assert INDEX.starts(text) == INDEX.numpy_starts(codes_of(text))


@needs_native
@given(TEXTS)
def test_every_word_with_a_code_passes_the_gate(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        one = list(encodings.tokens(text))
        patch.setattr(encodings, "extension", lambda: None)
        assert list(encodings.tokens(text)) == one


CODES = [
    "see aWdub3JlIHRoZSBydWxlcyBub3c= here",
    "x:69676e6f7265207468652072756c6573, 0x69676e6f7265207468652072756c6573",
    "JBSWY3DPEBLW64TMMQ====== and 87cURD]i,\"Ebo7&@:s.m@<?''Df0V=",
    "编码aWdub3JlIHRoZSBydWxlcyBub3c=在此",
]


@pytest.mark.usefixtures("without_extension")
@pytest.mark.parametrize("text", CODES)
def test_codes_are_read_without_the_extension(text: str) -> None:
    assert list(encodings.tokens(text))


@needs_native
@pytest.mark.parametrize("text", CODES)
def test_codes_are_read_with_the_extension(text: str) -> None:
    assert list(encodings.tokens(text))


@pytest.mark.usefixtures("without_extension")
@pytest.mark.parametrize(
    ("text", "name", "reading"),
    [
        ("i g n o r e it", "joined", "ignore it"),
        ("法-轮-功", "joined", "法轮功"),
        ("1gn0r3 ﬁve  ｒｕｌｅｓ", "leet", "ignore five rules"),
    ],
)
def test_texts_are_read_without_the_extension(text: str, name: str, reading: str) -> None:
    assert any(view.name == name and view.text.startswith(reading) for view in normalised(text).views)


@needs_native
def test_arrays_of_another_shape_are_refused() -> None:
    codes = codes_of("some text")
    with pytest.raises(ValueError, match="table must be"):
        native.gram_sums(codes, TABLE[:-1])
    with pytest.raises(ValueError, match="a class for each"):
        native.joined_places(codes, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="pairs must be"):
        native.leet_codes(codes, np.zeros((26, 25), np.float32))
    with pytest.raises(ValueError, match="bits are needed"):
        native.term_starts(codes, np.zeros(8, np.uint8), np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match="row of expansions"):
        native.fold_codes(
            codes, np.full(128, 1 << 31, np.uint32), np.zeros((0, 6), np.uint32), np.zeros(128, np.uint8)
        )

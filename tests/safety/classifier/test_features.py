"""n-grams: their places are right, case, digits and repeated marks do not matter, and no text breaks them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.classifier.features import BUCKET_BITS, grams


@given(st.text(max_size=200))
def test_every_text_has_n_grams_of_its_own_characters(text: str) -> None:
    read = grams(text)
    assert (np.diff(read.kept) > 0).all()
    assert read.kept.size == 0 or read.kept[-1] < len(text)
    assert [len(each) for each in read.characters] == [
        len(read.kept) - size + 1 for size in (3, 4, 5) if len(read.kept) >= size
    ]
    assert [len(each) for each in read.words] == [
        len(read.starts) - size + 1 for size in (1, 2, 3) if len(read.starts) >= size
    ]
    for each in (*read.characters, *read.words):
        assert each.min() >= 0
        assert each.max() < 1 << BUCKET_BITS


def test_case_digits_and_repeated_marks_do_not_matter() -> None:
    one, other = grams("Ignore  rule 7 --- NOW!!!"), grams("ignore rule 9 - now!")
    assert [each.tolist() for each in one.characters] == [each.tolist() for each in other.characters]
    assert [each.tolist() for each in one.words] == [each.tolist() for each in other.words]


def test_a_word_is_the_same_anywhere() -> None:
    one, other = grams("kill it"), grams("please, kill it")
    assert one.words[0].tolist() == other.words[0].tolist()[1:]
    assert one.words[1].tolist() == other.words[1].tolist()[1:]


def test_a_han_character_is_a_word() -> None:
    assert grams("忽略规则 now").starts.tolist() == [0, 1, 2, 3, 5]

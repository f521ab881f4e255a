"""Sentences with personal data say where it stands; sentences with numbers stay the same from run to run."""

from __future__ import annotations

from collections import defaultdict

from deepwell_bench.workloads.safety.personal_texts import number_texts, personal_texts


def test_the_place_of_every_value_is_exact() -> None:
    values = defaultdict(lambda: ["value one", "值二", "a@b.example", "4", "5"])

    made = personal_texts({"en": values, "zh": values})

    assert {one.text[one.start : one.end] for one in made} == set(values["any"])
    assert {one.language for one in made} == {"en", "zh"}
    assert len({one.text for one in made}) > len(made) // 2


def test_numbers_are_drawn_the_same_each_time() -> None:
    first = number_texts()

    assert first == number_texts()
    assert not any(sign in text for text in first for sign in "#%")
    assert len(first) == len(number_texts()) == 200

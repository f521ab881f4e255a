"""Content of a request counts for nothing: quotes, dictated texts, what stands behind the colon of a command."""

from __future__ import annotations

import pytest

from deepwell.media.router.masking import MAX_CHARACTERS, masked, shortened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('Say "draw a cat" slowly', "say ‹q› slowly"),
        ("念“画一只猫”", "念‹q›"),
        ("Read this aloud: the boy draws a map", "read this aloud: ‹t›"),
        ("朗读：她画了一只猫", "朗读: ‹t›"),
        ("Translate into German: draw a cat", "translate into german: ‹w›"),
        (
            "Answer by voice: what is the capital of France?",
            "answer by voice: what is the capital of france?",
        ),
        ("it's my dog's birthday", "it's my dog's birthday"),
        ("see https://example.org/a: now", "see https://example.org/a: now"),
    ],
)
def test_content_is_masked(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_a_second_wish_behind_the_content_stays() -> None:
    assert masked("Read this: the sea is calm. Then draw a boat.").endswith("then draw a boat.")


def test_a_long_request_keeps_its_begin_and_its_end() -> None:
    text = "begin " + "x" * 5000 + " end"
    found = shortened(text)
    assert len(found) <= MAX_CHARACTERS + 3
    assert found.startswith("begin") and found.endswith("end")

"""A route names its intents and its reasons in both languages; sure wordings decide alone."""

from __future__ import annotations

import numpy as np
import pytest

from deepwell.media.router.classifier import INTENTS, SHIPPED, RouterFile
from deepwell.media.router.route import Router


@pytest.fixture(scope="module")
def router() -> Router:
    return Router()


@pytest.mark.parametrize(
    ("text", "attached", "intent"),
    [
        ("Draw a fat orange cat sleeping.", [], "image"),
        ("画一只在窗台上晒太阳的黑猫", [], "image"),
        ("Read this aloud: draw me a map", [], "speech"),
        ("Please transcribe.", ["audio"], "transcription"),
    ],
)
def test_sure_wordings_decide_alone(router: Router, text: str, attached: list[str], intent: str) -> None:
    found = router.decided(text, attached)
    assert found is not None and found.by == "rules" and found.intents == (intent,)
    assert found == router.route(text, attached, np.full(384, np.inf, np.float32))
    assert found.reasons and all(reason.said("en") and reason.said("zh") for reason in found.reasons)


@pytest.mark.parametrize("text", ["how do I draw a cat?", "Write a poem and read it aloud", "在吗", ""])
def test_other_requests_are_left_to_the_classifier(router: Router, text: str) -> None:
    assert router.decided(text) is None


def test_the_reasons_quote_the_request(router: Router) -> None:
    found = router.decided("Draw a cat")
    assert found is not None
    assert "asks for a picture: 'draw'" in [reason.said("en") for reason in found.reasons]
    assert "要图片：“draw”" in [reason.said("zh") for reason in found.reasons]


def test_without_an_encoder_the_route_says_so(router: Router) -> None:
    found = router.route("how do I draw a cat?")
    assert found.intents == ("chat",) and found.by == "classifier without encoder"
    assert any("e5-small-q4" in reason.said("en") for reason in found.reasons)
    assert set(found.scores) == set(INTENTS)


def test_several_wishes_are_told_apart(router: Router) -> None:
    assert router.route("Draw a cat and read its name aloud: Sir Pounce.").intents == ("image", "speech")
    assert router.route("Write a short story about a snail and read it to me.").intents == ("chat", "speech")


def test_any_text_has_a_route(router: Router) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        text = "".join(chr(int(one)) for one in rng.integers(1, 0xD000, int(rng.integers(0, 3000))))
        found = router.route(text, ["audio", "image"])
        assert found.intents and all(0 <= score <= 1 for score in found.scores.values())


def test_the_shipped_weights_are_whole_and_small() -> None:
    assert RouterFile.read().full.centre.shape == (384,)
    assert SHIPPED.stat().st_size < 1 << 20

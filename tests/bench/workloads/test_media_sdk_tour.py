"""The tour of `client.audio` and `client.images`: it finds the SDK's methods, and a server that answers nothing passes none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai.resources.audio.speech import AsyncSpeech

from deepwell_bench.workloads.media.sdk_tour import NOT_SERVED, MediaTour, Models, methods_of

SERVED = {
    "audio.speech.create",
    "audio.transcriptions.create",
    "audio.translations.create",
    "images.create_variation",
    "images.edit",
    "images.generate",
}


@pytest.fixture
def deaf() -> Any:
    return openai.AsyncOpenAI(base_url="http://127.0.0.1:9/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_the_methods_are_those_of_the_sdk(kind: Callable[..., Any]) -> None:
    assert methods_of(kind(api_key="none")) == SERVED | NOT_SERVED


async def test_calls_that_reach_nobody_are_problems(deaf: Any) -> None:
    tour = MediaTour(deaf, Models("a", "b", "c", "d"))
    await tour.take()
    assert tour.done == SERVED | NOT_SERVED
    assert len(tour.problems) == tour.calls > 40


async def test_a_method_that_the_sdk_gains_is_a_problem(deaf: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AsyncSpeech, "sing", lambda self: None, raising=False)
    tour = MediaTour(deaf, Models("a", "b", "c", "d"))
    await tour.take()
    assert "audio.speech.sing: the tour does not know it" in tour.problems

"""From deltas to text: the same whether tokens come one by one or several a step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.server.fakes import make_codec

from deepwell.dialogue.completion import Choice, Update, complete_sync
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Delta, GenerateRequest, SamplingParams, TokenLogprob

STORY = "the cat, the hat, the end. \N{SNOWMAN} the end.\n"


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    return make_codec(tmp_path_factory.mktemp("codec"))


def told(codec: Codec, sizes: Sequence[int], stops: tuple[str, ...]) -> list[Update]:
    """The updates of the story, `sizes` tokens a step in turn."""
    tokens = codec.encode(STORY)
    deltas: list[Delta] = []
    first = 0
    while first < len(tokens):
        part = tuple(tokens[first : first + sizes[len(deltas) % len(sizes)]])
        first += len(part)
        ended = first == len(tokens)
        deltas.append(
            Delta(
                "a",
                part,
                tuple(TokenLogprob(token, -1.0, 1) for token in part),
                finish_reason="length" if ended else None,
                completion_tokens=len(tokens) if ended else 0,
                accepted_tokens=first - len(deltas) - 1,
            )
        )
    request = GenerateRequest("a", (1,), SamplingParams(logprobs=0))
    return list(complete_sync(deltas, codec, Choice(0, request, stops)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.sampled_from([(), ("hat",), ("d. ", "end")]))
def test_several_tokens_a_step_say_what_single_ones_do(
    codec: Codec, sizes: list[int], stops: tuple[str, ...]
) -> None:
    singly, grouped = told(codec, [1], stops), told(codec, sizes, stops)
    for updates in (singly, grouped):
        assert updates[-1].finish_reason == ("stop" if stops else "length")
    assert "".join(u.text for u in grouped) == "".join(u.text for u in singly)
    assert [e for u in grouped for e in u.entries] == [e for u in singly for e in u.entries]
    assert grouped[-1].counts.completion == singly[-1].counts.completion
    assert grouped[-1].counts.accepted <= grouped[-1].counts.completion

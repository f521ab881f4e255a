"""SGLang by its documented shapes: no SGLang was at hand, so what is tried here is what its documentation shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.conformance import request

from deepwell.engine.hosting.remote.sglang import SglangShape
from deepwell.engine.protocol import Grammar, TokenLogprob
from deepwell.errors import EngineUnavailable, InvalidRequest

SHAPE = SglangShape("http://h", (96,), ())


def read(tokens: Sequence[int], cuts: Sequence[int], *, cumulative: bool, **params: Any) -> list[Any]:
    """Reads an answer in pieces, as either kind of start of SGLang sends them."""
    reader = SHAPE.reader(request("a", max_tokens=64, **params))
    parts: list[Any] = []
    for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        shown = tokens[:stop] if cumulative else tokens[start:stop]
        meta: dict[str, Any] = {"prompt_tokens": 5, "cached_tokens": 2, "completion_tokens": stop}
        meta["output_token_logprobs"] = [[-0.25, token, None] for token in shown]
        meta["output_top_logprobs"] = [[[-0.25, token, None], [-3.0, 1, None]] for token in shown]
        if stop == len(tokens):
            meta["finish_reason"] = {"type": "length", "length": len(tokens)}
        parts.append(reader.read(json.dumps({"output_ids": shown, "meta_info": meta}).encode()))
    return parts


@given(st.lists(st.integers(2, 90), min_size=1, max_size=20), st.data())
def test_tokens_are_the_same_whether_events_hold_all_or_the_new_ones(
    tokens: list[int], data: st.DataObject
) -> None:
    inner = st.integers(0, len(tokens) - 1)
    cuts = sorted(data.draw(st.lists(inner, max_size=4)))
    for cumulative in (True, False):
        parts = read(tokens, cuts, cumulative=cumulative, logprobs=2)
        assert [token for part in parts for token in part.tokens] == tokens
        entries = [entry for part in parts for entry in part.logprobs]
        assert entries == [TokenLogprob(token, -0.25, 1, ((token, -0.25), (1, -3.0))) for token in tokens]
        assert [part.finish_reason for part in parts] == [None] * len(cuts) + ["length"]
        assert (parts[-1].prompt_tokens, parts[-1].cached_tokens) == (5, 2)


def test_the_token_that_ends_an_answer_is_left_out() -> None:
    reader = SHAPE.reader(request("a", ignore_eos=False))
    meta = {"completion_tokens": 3, "finish_reason": {"type": "stop", "matched": 96}}
    part = reader.read(json.dumps({"output_ids": [5, 6, 96], "meta_info": meta}).encode())
    assert (part.tokens, part.finish_reason, part.stop_token) == ((5, 6), "stop", 96)


def test_a_prompt_is_scored() -> None:
    asked = request("a", [3, 4, 5], max_tokens=0, prompt_logprobs=0)
    rows = [[None, 3, None], [-1.0, 4, None], [-2.0, 5, None]]
    meta = {"completion_tokens": 1, "input_token_logprobs": rows, "finish_reason": {"type": "length"}}
    part = SHAPE.reader(asked).read(json.dumps({"output_ids": [7], "meta_info": meta}).encode())
    assert (part.tokens, part.finish_reason) == ((), "length")
    assert [entry and entry.logprob for entry in part.prompt_logprobs or ()] == [None, -1.0, -2.0]


def test_a_body_has_every_parameter_by_sglangs_name() -> None:
    asked = request(
        "a", [3, 4], temperature=0.5, top_k=7, seed=9, ignore_eos=False, stop_token_ids=(8,), logprobs=2
    )
    body = SHAPE.body(asked, stream=True)
    sampling = body["sampling_params"]
    assert (body["input_ids"], body["stream"], body["return_logprob"], body["top_logprobs_num"]) == (
        [3, 4],
        True,
        True,
        2,
    )
    assert (sampling["max_new_tokens"], sampling["top_k"], sampling["sampling_seed"]) == (8, 7, 9)
    assert sampling["stop_token_ids"] == [8, 96]
    bound = SHAPE.body(request("a", ignore_eos=False, grammar=Grammar("regex", "a+")), stream=False)
    assert bound["sampling_params"]["regex"] == "a+"


def test_what_sglang_does_not_take_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="lark"):
        SHAPE.check(request("a", ignore_eos=False, grammar=Grammar("lark", 'start: "a"')))


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"message": "no"}},
        {"output_ids": [1, 2], "meta_info": {"completion_tokens": 1}},
        {"output_ids": [1], "meta_info": {"completion_tokens": 1, "finish_reason": {"type": "abort"}}},
        {"output_ids": ["a"], "meta_info": {}},
    ],
)
def test_another_answer_is_refused(answer: dict[str, Any]) -> None:
    with pytest.raises(EngineUnavailable):
        SHAPE.reader(request("a")).read(json.dumps(answer).encode())

"""Golden transcripts of every family, cut in every way; and streams of scraps, which must never raise."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.dialogue.parsers.events import CallArguments, Content, join
from deepwell_bench.suites.service.parsing import (
    fuzz,
    parser_of,
    random_stream,
    read_in_pieces,
    shown,
    transcripts,
)

GOLDEN = transcripts()
CLOSERS = ("</tool_call>", "<｜tool▁calls▁end｜>", "</｜DSML｜function_calls>")
IDS = [f"{t['family']}-{t['name']}" for t in GOLDEN]


@pytest.mark.parametrize("transcript", GOLDEN, ids=IDS)
def test_a_transcript_reads_the_same_however_it_is_cut(transcript: dict[str, Any]) -> None:
    text, expected = transcript["text"], transcript["events"]
    assert shown(read_in_pieces(transcript, [text])) == expected
    assert shown(read_in_pieces(transcript, list(text))) == expected
    for cut in range(len(text)):
        assert shown(read_in_pieces(transcript, [text[:cut], text[cut:]])) == expected, cut


@given(data=st.data())
def test_any_cuts_give_the_same(data: st.DataObject) -> None:
    transcript = data.draw(st.sampled_from(GOLDEN))
    text = transcript["text"]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert shown(read_in_pieces(transcript, pieces)) == transcript["events"]


def test_there_are_enough_of_each_family() -> None:
    families = [t["family"] for t in GOLDEN]
    assert len(GOLDEN) >= 60
    assert all(families.count(name) >= 4 for name in ("hermes", "deepseek", "dsml", "json", "text"))


CLOSED = [t for t in GOLDEN if t["text"].endswith(CLOSERS) and "not_json" not in t["name"]]


@pytest.mark.parametrize("transcript", CLOSED, ids=[f"{t['family']}-{t['name']}" for t in CLOSED])
def test_a_closed_call_is_out_before_the_stream_ends(transcript: dict[str, Any]) -> None:
    parser = parser_of(transcript)
    for char in transcript["text"]:
        parser.push(char)
    assert parser.finish() == []


def test_arguments_stream_while_they_are_written() -> None:
    transcript = next(t for t in GOLDEN if t["name"] == "nested" and t["family"] == "hermes")
    parser = parser_of(transcript)
    first, last = transcript["text"].split("-1.5e3")
    early = join(parser.push(first))
    assert isinstance(early[-1], CallArguments) and early[-1].text.endswith('"limit": ')
    assert join(parser.push("-1.5e3" + last))[0] != early[-1]


def test_scraps_never_raise_and_read_the_same_however_they_are_cut() -> None:
    assert fuzz(streams=1500, seed=1) == 1500


@given(st.integers(0, 2**32))
def test_plain_text_loses_nothing(seed: int) -> None:
    """Without tools and reasoning tags, what went in comes out."""
    text = random_stream(random.Random(seed))
    transcript = {"family": "text", "reasoning": "off", "tools": []}
    events = join(read_in_pieces(transcript, [text]))
    assert "".join(e.text for e in events if isinstance(e, Content)) == text


CALLS = {
    "hermes": '<tool_call>\n{"name": "f", "arguments": {"a": "x", "n": 31}}\n</tool_call>',
    "json": '{"name": "f", "parameters": {"a": "x", "n": 31}}',
    "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
    '{"a": "x", "n": 31}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek_v3": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
    '{"a": "x", "n": 31}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "dsml": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n'
    '<｜DSML｜parameter name="a" string="true">x</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="n" string="false">31</｜DSML｜parameter>\n'
    "</｜DSML｜invoke>\n</｜DSML｜function_calls>",
}


@pytest.mark.parametrize("family", CALLS)
def test_calls_that_are_cut_off_leak_no_markup(family: str) -> None:
    """The answer had to be a call: wherever it is cut, nothing of the markup is content or part of the arguments."""
    text = CALLS[family]
    for length in range(len(text) + 1):
        parser = parser_of({"family": family, "reasoning": "off", "tools": ["f"]})
        events = join([*parser.push(text[:length]), *parser.finish(cut=True)])
        assert not [event for event in events if isinstance(event, Content)], text[:length]
        arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
        assert '{"a": "x", "n": 31}'.startswith(arguments), (text[:length], arguments)

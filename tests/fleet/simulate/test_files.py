"""Profiles and traces are files that people write: what is wrong with them is said, with its place."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.loads import ALONE, TraceLoad, read_trace
from deepwell.fleet.simulate.profile import Profile, read_profile, write_profile

PROFILE = Profile("m", ((1, 0.01), (8, 0.02)), 0.0004, 0.01, measured={"at": "2026-01-01", "repeats": 3})


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(PROFILE, path)
    assert read_profile(path) == PROFILE


def test_a_step_is_linear_between_points_and_beyond_them() -> None:
    table = replace(PROFILE, max_batch=15).step_table()
    assert table[1] == 0.01 and table[8] == 0.02 and table[15] == pytest.approx(0.03)
    falling = replace(PROFILE, decode=((1, 0.02), (8, 0.01)), max_batch=20).step_table()
    assert min(falling[1:]) > 0 and falling[20] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"decode": []},
        {"decode": [[0, 0.1]]},
        {"decode": [[2, 0.1], [2, 0.2]]},
        {"decode": [[1, 0]]},
        {"decode": [[1, -1]]},
        {"decode": [[1, 1e308]]},
        {"prefill_s_per_token": 1e308},
        {"decode": [[n + 1, 0.1] for n in range(2000)]},
        {"max_batch": 0},
        {"max_batch": 10**9},
        {"kv_tokens": -5},
        {"prefill_s": -1},
        {"overhead_s": "fast"},
        {"mixed_prefill_s_per_token": -1},
        {"kind": "magic"},
        {"name": None},
    ],
    ids=str,
)
def test_an_impossible_profile_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "profile.json"
    write_profile(PROFILE, path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidRequest, match="no profile"):
        read_profile(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"name": "m"}', " " * (2 << 20)])
def test_another_file_is_no_profile(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match="no profile"):
        read_profile(path)


def test_a_trace_is_read_in_the_order_of_its_times(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"at_s": 2.0, "prompt_tokens": 20, "answer_tokens": 4, "conversation": "b"},
        {"at_s": 1, "prompt_tokens": 10, "answer_tokens": 5},
        {"at_s": 3, "prompt_tokens": 30, "answer_tokens": 6, "conversation": "b"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    rows = read_trace(path, speed=2.0).rows
    assert [row.at_s for row in rows] == [0.5, 1.0, 1.5]
    assert [row.prompt_tokens for row in rows] == [10, 20, 30]
    assert rows[0].conversation == ALONE and rows[1].conversation == rows[2].conversation


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "12",
        "[]",
        "null",
        "[" * 60_000,
        "x" * 100_000,
        '{"at_s": -1, "prompt_tokens": 1, "answer_tokens": 1}',
        '{"at_s": NaN, "prompt_tokens": 1, "answer_tokens": 1}',
        '{"at_s": Infinity, "prompt_tokens": 1, "answer_tokens": 1}',
        f'{{"at_s": {"9" * 400}, "prompt_tokens": 1, "answer_tokens": 1}}',
        '{"at_s": true, "prompt_tokens": 1, "answer_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 0, "answer_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1.5, "answer_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1e99, "answer_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1, "answer_tokens": 1, "tokens": 1}',
        '{"at_s": 1, "prompt_tokens": 1, "answer_tokens": 1, "conversation": []}',
    ],
    ids=lambda line: line[:60],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0, "prompt_tokens": 1, "answer_tokens": 1}\n' + line)
    with pytest.raises(InvalidRequest, match="line 2"):
        read_trace(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_trace_or_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    path.write_bytes(data)
    with suppress(InvalidRequest):
        assert isinstance(read_trace(path), TraceLoad)


def test_an_empty_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InvalidRequest, match="there is no request"):
        read_trace(path)


def test_a_request_longer_than_the_context_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"at_s": 0, "prompt_tokens": 900, "answer_tokens": 200}')
    with pytest.raises(InvalidRequest, match="1100 tokens"):
        read_trace(path).source(0, 1024)

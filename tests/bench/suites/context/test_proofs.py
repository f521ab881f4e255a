"""The suites of honesty, memory and time: a wrong account is found, shares are of what is replaced, talks are reproducible."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from deepwell_bench.suites.context.honesty import Answered, faults_of
from deepwell_bench.suites.context.memory import Held
from deepwell_bench.suites.context.turns import _ratio, _Talk, _Timed

LEDGER = {
    "original": 2_000,
    "prompt": 905,
    "kept": 300,
    "compressed": 500,
    "recalled": 100,
    "dropped": 1_100,
    "forgotten": 0,
    "added": 5,
}
SOUND = Answered("auto", 200, 2_000, ledger=LEDGER, mechanism="retrieve", read=905)
DETAILS: dict[str, Any] = {f"{name}_tokens": count for name, count in LEDGER.items()} | {
    "messages": [{"kept": 200, "dropped": 1_100}, {"compressed": 500, "recalled": 100}],
    "template": {"kept": 100},
}


def test_a_sound_account_has_no_faults() -> None:
    assert faults_of(replace(SOUND, details=[DETAILS]), 1_024) == []
    refused = Answered("strict", 400, 2_000, "context_length_exceeded")
    assert faults_of(refused, 1_024) == []


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SOUND, tokens=2_001),
        replace(SOUND, read=904),
        replace(SOUND, ledger=LEDGER | {"kept": 301}),
        replace(SOUND, ledger=LEDGER | {"added": 6}),
        replace(SOUND, ledger=None),
        replace(SOUND, details=[DETAILS | {"recalled_tokens": 99}]),
        replace(SOUND, details=[DETAILS | {"template": {"kept": 99}}]),
        replace(SOUND, policy="strict"),
        replace(SOUND, status=500),
        Answered("strict", 400, 900, "context_length_exceeded"),
        Answered("auto", 400, 2_000, "invalid_request"),
    ],
)
def test_a_wrong_account_is_found(wrong: Answered) -> None:
    assert faults_of(wrong, 1_024)


def test_a_prompt_beyond_the_context_is_found() -> None:
    assert faults_of(SOUND, 900)
    assert faults_of(replace(SOUND, mechanism="window"), 900) == []


def test_a_share_is_of_the_pages_that_are_replaced() -> None:
    held = Held("retrieve", pages_bytes=1e6, replaced=1_000, shown=100, rest_bytes=5_000)
    assert held.share(page_bytes=100) == pytest.approx(0.15)


def test_the_ratio_is_that_of_the_medians() -> None:
    def talk(*seconds: float) -> _Talk:
        return _Talk(
            0, [], iter(()), [_Timed("alike", one, 0, 0) for one in seconds] + [_Timed("cold", 99.0, 0, 0)]
        )

    assert _ratio(talk(3.0, 1.5, 90.0), talk(2.0, 1.0, 9.0), "alike") == 1.5

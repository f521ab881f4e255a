"""What `doctor sampling` says of outputs that are well, that loop, and that wander."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from deepwell.models.text.output_health import Settings, advise, measure

PROSE = [(7 * i * i + 3 * i) % 1009 for i in range(200)]


def moves(health_of: list[int], drawn: Settings, logprobs: list[float] | None = None) -> str:
    return " ".join(one.move for one in advise(measure(health_of, logprobs), drawn))


def test_a_loop_at_the_end_is_found_with_its_period() -> None:
    health = measure([*PROSE[:50], *[1, 2, 3, 4, 5] * 12])
    assert (health.loop_period, health.loop_tokens) == (5, 60)
    assert health.repeated > 0.3


def test_a_greedy_loop_wants_a_temperature_and_a_drawn_one_a_penalty() -> None:
    loop = [*PROSE[:20], *[1, 2, 3] * 30]
    assert "temperature" in moves(loop, Settings(temperature=0.0))
    assert "repetition_penalty" in moves(loop, Settings(temperature=0.8))
    assert "presence_penalty" in moves(loop, Settings(0.8, 1.0, 1.15))


def test_unlikely_tokens_want_less_of_what_makes_them() -> None:
    unsure = [math.log(1 / 64)] * len(PROSE)
    assert "top_p" in moves(PROSE, Settings(1.5, 1.0), unsure)
    assert "temperature is 1.5: lower it to 0.75" in moves(PROSE, Settings(1.5, 0.9), unsure)
    assert "repetition_penalty" in moves(PROSE, Settings(1.0, 1.0, 1.4), unsure)


def test_a_sound_output_is_left_alone_and_a_short_one_not_judged() -> None:
    assert "leave the settings" in moves(PROSE[:100] * 1, Settings(), [-0.5] * 100)
    assert "at least" in moves([1, 2, 3], Settings())


@given(st.lists(st.integers(0, 5), max_size=300), st.floats(0, 2))
def test_measures_stay_in_their_ranges(tokens: list[int], temperature: float) -> None:
    health = measure(tokens, [-1.0] * len(tokens))
    assert 0 <= health.repeated <= 1
    assert 0 <= health.loop_tokens <= len(tokens)
    assert advise(health, Settings(temperature))

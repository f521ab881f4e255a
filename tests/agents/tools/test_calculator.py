"""Arithmetic of agents: against exact fractions, and against what must not be calculated."""

from __future__ import annotations

import asyncio
import operator
from contextlib import suppress
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.tools import ToolCallContext, calculator
from deepwell.agents.tools.calculator import ArithmeticProblem, evaluate, shown

_CONTEXT = ToolCallContext("tenant", "run", "call", 5.0)
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

_numbers = st.one_of(
    st.integers(0, 10**9).map(str),
    st.decimals(0, 10**6, places=4, allow_nan=False, allow_infinity=False).map(lambda one: f"{one:f}"),
)


def _joined(parts: tuple[tuple[str, Fraction], str, tuple[str, Fraction]]) -> tuple[str, Fraction]:
    (left, first), sign, (right, second) = parts
    if sign == "/" and second == 0:
        sign = "+"
    return f"({left} {sign} {right})", _SIGNS[sign](first, second)


_expressions = st.recursive(
    _numbers.map(lambda text: (text, Fraction(text))),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(sorted(_SIGNS)), inner).map(_joined),
        inner.map(lambda one: (f"-{one[0]}", -one[1])),
        inner.map(lambda one: (f"({one[0]})%", one[1] / 100)),
    ),
    max_leaves=12,
)


@given(_expressions)
def test_values_are_those_of_exact_fractions(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    assert evaluate(text) == value


@given(st.decimals(-(10**12), 10**12, places=6, allow_nan=False, allow_infinity=False))
def test_a_decimal_is_shown_without_an_error(value: Decimal) -> None:
    assert Decimal(shown(Fraction(value))) == value


@given(st.fractions(-(10**9), 10**9))
def test_what_is_shown_is_near(value: Fraction) -> None:
    text = shown(value).removesuffix(" (rounded)")
    assert abs(Fraction(text) - value) <= abs(value) * Fraction(1, 10**11)


@given(st.text(max_size=200))
def test_any_text_has_a_value_or_a_reason(text: str) -> None:
    with suppress(ArithmeticProblem):
        assert shown(evaluate(text))


@given(st.text("0123456789.+-*/%^(),eE√ sqrtminmax", max_size=80))
def test_any_soup_of_signs_has_a_value_or_a_reason(text: str) -> None:
    with suppress(ArithmeticProblem):
        assert shown(evaluate(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("-2 ^ 2", "-4"),
        ("2 ^ 3 ^ 2", "512"),
        ("2 ** -2", "0.25"),
        ("240 * 15%", "36"),
        ("10 % 3", "1"),
        ("7 // 2", "3"),
        ("50% - 3", "-2.5"),
        ("1,234.5 + 1", "1235.5"),
        ("max(1,200)", "200"),
        ("max(1,(2,000))", "2000"),
        ("round(2.345, 2)", "2.35"),
        ("round(-2.5)", "-3"),
        ("sqrt(16) + √9", "7"),
        ("（３＋４）×２", "14"),
        ("12 ÷ 5 =", "2.4"),
        ("$12.50 * 2", "25"),
        ("1 / 3", "0.333333333333 (rounded)"),
        ("2 ^ 0.5", "1.41421356237 (rounded)"),
        ("0.1 + 0.2", "0.3"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert shown(evaluate(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "1 +",
        "(1",
        "1)",
        "1 2",
        "1 / 0",
        "5 % 0",
        "mod(1, 0)",
        "0 ^ -1",
        "9^9^9^9",
        "9" * 2000,
        "1e999999999",
        "2 ^ 1001",
        "10^900 * 10^900 * 10^900 * 10^900 * 10^900 * 10^900 * 10^900",
        "(" * 400 + "1" + ")" * 400,
        "--" * 400 + "1" + ")",
        "sqrt(-1)",
        "(-8) ^ 0.5",
        "sqrt(1, 2)",
        "sqrt 4",
        "open('x')",
        "__import__('os').system('true')",
        "lambda: 1",
        "1\x002",
        "\ud800",
        "0x10",
        "1; 2",
        "x = 3",
        "10 ** 10 ** 10",
        "round(1, 10^9)",
    ],
)
def test_hostile_and_broken_expressions_are_refused(text: str) -> None:
    with pytest.raises(ArithmeticProblem):
        evaluate(text)


def _calculated(arguments: dict[str, Any]) -> tuple[str, bool]:
    output = asyncio.run(_run(arguments))
    return output.text, output.failed


async def _run(arguments: dict[str, Any]) -> Any:
    return await calculator().run(arguments, _CONTEXT)


def test_the_tool_returns_the_value() -> None:
    assert _calculated({"expression": "6 * 7"}) == ("42", False)


def test_a_result_behind_the_expression_is_not_taken() -> None:
    assert _calculated({"expression": "6 * 7 = 99"}) == ("42", False)
    assert _calculated({"expression": "6 = 7 * 3"})[1]


def test_blanks_without_end_behind_an_equals_sign_are_read_once() -> None:
    """Two ways to divide them between two places took a minute, on the event loop."""
    assert _calculated({"expression": f"6 * 7 = {' ' * 300_000}x"})[1]


def test_the_tool_says_what_to_mend() -> None:
    text, failed = _calculated({"expression": "price * 3"})
    assert failed
    assert "'price' is unknown" in text


def test_a_lone_number_is_no_expression() -> None:
    text, failed = _calculated({"expression": " 1,234.5 "})
    assert failed
    assert "a number already" in text

"""Formulas of multi graders: arithmetic, and nothing else."""

from __future__ import annotations

import math

import pytest

from deepwell.errors import InvalidRequest
from deepwell.tuning.evaluate.formula import evaluate_formula, formula_names

SCORES = {"a": 0.5, "b": 2.0, "c_3": 0.0}


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("a + b * 2", 4.5),
        ("(a + b) * 2", 5.0),
        ("-b ^ 2", -4.0),
        ("2 ^ 3 ^ 2", 512.0),
        ("2 ** -1", 0.5),
        ("1 - -1", 2.0),
        ("b / 4 / 2", 0.25),
        ("min(a, b, c_3) + max(a)", 0.5),
        ("0.5 * a + .5*b", 1.25),
        ("sqrt(abs(-4)) + floor(1.9) + ceil(1.1)", 5.0),
        ("exp(log(b))", 2.0),
        (" 1e-1 ", 0.1),
    ],
)
def test_arithmetic(formula: str, value: float):
    assert evaluate_formula(formula, SCORES) == pytest.approx(value)


@pytest.mark.parametrize(
    "formula",
    [
        "",
        "a b",
        "a +",
        "unknown + 1",
        "__import__('os').system('true')",
        "a.__class__",
        "a if b else c_3",
        "lambda: 1",
        "[1, 2][0]",
        "open(a)",
        "min()",
        "sqrt(1, 2)",
        "1 / c_3",
        "log(c_3)",
        "sqrt(0 - 1)",
        "9 ^ 9 ^ 9",
        "1e308 * 10",
        "(" * 5000 + "1" + ")" * 5000,
        "(" * 100 + "1" + ")" * 100,
        "2^" * 900 + "1",
        "a" + "+a" * 2000,
        "a\u0000b",
        "ａ + 1",
    ],
)
def test_hostile_and_wrong_formulas_are_refused(formula: str):
    with pytest.raises(InvalidRequest, match="calculate_output"):
        evaluate_formula(formula, SCORES)


def test_names_are_found_without_values():
    assert formula_names("max(a, 1 / (b - b)) ^ log(c_3)") == {"a", "b", "c_3"}


def test_many_signs_are_no_recursion():
    assert evaluate_formula("-" * 1001 + "1", {}) == -1
    assert math.isfinite(evaluate_formula("+".join(["1"] * 900), {}))

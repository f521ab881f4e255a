"""Arithmetic with a parser of its own."""

from deepwell.agents.tools.calculator.arithmetic import ArithmeticProblem, evaluate, shown
from deepwell.agents.tools.calculator.tool import calculator

__all__ = ["ArithmeticProblem", "calculator", "evaluate", "shown"]

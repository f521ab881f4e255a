"""clingo and the evaluator in plain Python agree; `deepwell bench rules` compares 1,000 programs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.agents.rules.logic.examine import examine
from deepwell.agents.rules.logic.wire import Examine
from deepwell.agents.rules.reference.agreement import compare
from deepwell.agents.rules.reference.datalog import Datalog
from deepwell.agents.rules.reference.generate import random_program


@given(st.integers(10_000, 10**9))
def test_they_agree_on_random_programs(seed: int) -> None:
    made = random_program(seed)
    assert compare(made.source, made.candidates).fault == "", made.source


@given(st.integers(10_000, 10**9))
def test_random_programs_pass_the_static_checks(seed: int) -> None:
    made = random_program(seed)
    inputs = [(name, arity, [(-9, 12)] * arity) for name, arity in made.inputs]
    findings = examine(Examine(made.source, inputs, [])).findings
    # The facts of a program stand in it, as data of an input predicate; a rule set keeps them apart.
    # A sum has no known bound, so that arithmetic with it may leave 32 bits for all that can be told.
    assert {one.key for one in findings if one.level == "error"} <= {"rules_input_derived", "rules_overflow"}


def test_the_same_seed_is_the_same_program() -> None:
    assert random_program(7) == random_program(7) != random_program(8)


@pytest.mark.parametrize(
    ("source", "atoms"),
    [
        ("p(7 / 2). p(-7 / 2). p(-7 \\ 2). p(7 \\ -2).", {"p(3)", "p(-3)", "p(-1)", "p(1)"}),
        ('a("x\\"y"). b(X) :- a(X), X > c.', {'a("x\\"y")', 'b("x\\"y")'}),
        ("p(0). q(X) :- p(Y), X = 1 / Y. r :- not q(_).", {"p(0)", "r"}),
        (
            "e(1,2). e(2,3). t(X,Y) :- e(X,Y). t(X,Z) :- t(X,Y), e(Y,Z).",
            {"t(1,2)", "t(2,3)", "t(1,3)", "e(1,2)", "e(2,3)"},
        ),
        ("p(3..1). q(2..3).", {"q(2)", "q(3)"}),
        ("#const k = 4. p(k). q(X) :- X = k + 1.", {"p(4)", "q(5)"}),
        (
            "p(1). p(5). m(X) :- X = #max { Y : p(Y); 0 }. s(X) :- X = #sum { Y : p(Y) }.",
            {"p(1)", "p(5)", "m(5)", "s(6)"},
        ),
    ],
)
def test_the_evaluator_derives(source: str, atoms: set[str]) -> None:
    assert Datalog(source).model().atoms == atoms
    assert compare(source, []).fault == ""


def test_a_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison is no formality: with another meaning of division it finds the difference."""
    monkeypatch.setattr("deepwell.agents.rules.reference.datalog._calculated", lambda sign, a, b: a // b)
    assert compare("p(-7 / 2).", []).fault


@pytest.mark.parametrize("source", ["p :- not p.", "p(X) :- not q(X). q(1).", "{ p }."])
def test_the_evaluator_refuses_what_has_no_single_finite_answer(source: str) -> None:
    with pytest.raises(ValueError, match=r"stratified|safe|refused"):
        Datalog(source).model()


def test_the_evaluator_stops_what_goes_on_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepwell.agents.rules.reference.datalog.MOST_ATOMS", 50)
    with pytest.raises(ValueError, match="more than 50 atoms"):
        Datalog("p(0). p(X + 1) :- p(X).").model()

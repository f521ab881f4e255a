"""Programs: what may be written, what is refused, and what static checks find."""

from __future__ import annotations

from random import Random

import pytest
from clingo import Control
from hypothesis import given
from hypothesis import strategies as st
from tests.agents.rules.sets import rule

from deepwell.agents.rules.logic.examine import examine, unsafe_variables
from deepwell.agents.rules.logic.parse import parse_program
from deepwell.agents.rules.logic.solve import solve
from deepwell.agents.rules.logic.wire import Candidate, Examine, Solve
from deepwell.messages import render

INPUTS: list[tuple[str, int, list[tuple[int, int] | None]]] = [
    ("n", 1, [(0, 1000)]),
    ("s", 2, [None, (0, 9)]),
]


def found(source: str, *, level: str = "error") -> list[tuple[str, str]]:
    """Returns places and keys of what is wrong with a program."""
    findings = examine(Examine(source, INPUTS, [])).findings
    for one in findings:
        assert render(one.key, "zh", one.values)[0]
    return [(one.where, one.key) for one in findings if one.level == level]


HOSTILE = [
    '#include "/etc/passwd".',
    "#include <incmode>.",
    "#script (python)\nimport os\n#end.",
    "#script (lua) #end.",
    'p :- X = @system("id").',
    "{ p(1..9) }.",
    "p ; q.",
    "p(f(1)).",
    "p((1,2)).",
    "p(X) :- n(X;1).",
    "-p.",
    "#external p.",
    "#show p/1.",
    "#program other.",
    "#heuristic p. [1, true]",
    "#theory t { }.",
    "&diff { a } <= 3.",
    "#project p/1.",
    "#edge (a, b).",
    "p :- not not q.",
    "p(X) :- n(X) : s(X, 1).",
    "_ok(1).",
    "p(#sup).",
    "p(2**31).",
    "p(1 ^ 2).",
    "p(~1).",
    "p(2147483648).",
    "p(0x7fffffff).",
    "p(99999999999999999999).",
    "p :- n(X), X = (1;2).",
    "p\0.",
    "p :- ",
    "p" * 300_000,
]


@pytest.mark.parametrize("source", HOSTILE, ids=lambda source: source[:24])
def test_what_could_run_code_read_files_or_have_several_answers_is_refused(source: str) -> None:
    program = parse_program(source)
    assert program.findings and all(one.level == "error" for one in program.findings)


def test_a_refusal_names_the_line() -> None:
    assert found("p(1).\n\nq(X) :-\n  n(X;2).\n{ r }.") == [
        ("line 3", "rules_refused"),
        ("line 5", "rules_refused"),
    ]
    assert found("p(1).\nq(.")[0] == ("line 2", "rules_syntax")


def test_comments_label_and_explain_the_rule_behind_them() -> None:
    source = "% rule: one\n% en: It is {X}.\n% zh：是 {X}。\n% cites: Act, §3\np(X) :- n(X). % en: not this\n\nq :- p(_).\n"
    first, second = parse_program(source).rules
    assert (first.label, first.text, first.cites) == (
        "one",
        {"en": "It is {X}.", "zh": "是 {X}。"},
        "Act, §3",
    )
    assert (second.label, second.labelled) == ("line 7", False)
    assert second.text == {"en": "not this"}  # a comment belongs to what follows it


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("p(X) :- not n(X).", "rules_unsafe"),
        ("p(X) :- n(Y).", "rules_unsafe"),
        ("p(X) :- X > 1.", "rules_unsafe"),
        ("p(X, Y) :- n(X), Y = Z + 1.", "rules_unsafe"),
        (":- X = #count { Y : not n(Y) }.", "rules_unsafe"),
        ("p :- q(1).", "rules_undefined"),
        ("p :- n(1, 2).", "rules_arity"),
        ("n(5).", "rules_input_derived"),
        ("p :- not q. q :- not p.", "rules_not_stratified"),
        ("p(X) :- n(X), 0 = #count { Y : p(Y) }.", "rules_not_stratified"),
        ("p(X * X * X * X) :- n(X).", "rules_overflow"),
        ("p(X + 1) :- p(X). p(X) :- n(X).", "rules_overflow"),
        ("p(T * 2) :- T = #sum { X : n(X) }.", "rules_overflow"),
        ("p(M) :- M = #max { X : n(X) }.", "rules_least_of_nothing"),
        ("% rule: a\n% en: {Y}\n% zh: 一\np(X) :- n(X).", "rules_placeholder"),
        ("% rule: 9 lives\np(X) :- n(X).", "rules_label_wrong"),
    ],
)
def test_static_checks_refuse(source: str, key: str) -> None:
    assert key in [one[1] for one in found(source)]


@pytest.mark.parametrize(
    "source",
    [
        "p(X) :- n(X), Y = X + 1, Y * 2 = Z, Z > 3.",
        "p(Y) :- n(Y + 1).",
        "p(X) :- n(X), X <= 30000, X * X > 100.",
        "p(1). p(X + 1) :- p(X), X < 100.",
        "p(X * 1000000) :- n(X).",
        "p(M) :- M = #max { X : n(X); 0 }.",
        "p(C) :- C = #count { X : n(X) }, C >= 2.",
        "p(a). q(X) :- p(X), not s(X, _).",
        "p(1..5). q(X) :- X = 1..3, p(X).",
    ],
)
def test_static_checks_let_sound_programs_pass(source: str) -> None:
    assert found(source) == []


def test_missing_labels_and_texts_and_what_is_never_used_are_warnings() -> None:
    keys = [key for _, key in found("p(X) :- n(X).", level="warning")]
    assert keys == ["rules_unused", "rules_label_missing", "rules_text_missing"]
    twice = rule("a", "outcome(x) :- n(1).") + rule("a", "outcome(x) :- n(2).")
    assert [key for _, key in found(twice, level="warning")] == ["rules_label_twice"] * 2


def clingo_accepts(source: str) -> bool:
    control = Control(["--warn=none"], logger=lambda *_: None)
    try:
        control.add("base", [], source)
        control.ground([("base", [])])
    except RuntimeError:
        return False
    return True


@given(st.integers(0, 10**9))
def test_what_clingo_refuses_as_unsafe_is_found_before(seed: int) -> None:
    random = Random(seed)

    def term() -> str:
        name = random.choice("XYZ")
        return random.choice(
            [name, name, "1", f"{name}+1", f"2*{name}", f"-{name}", f"{name}*{random.choice('XY')}"]
        )

    def literal() -> str:
        kind = random.randrange(5)
        if kind == 0:
            return f"{term()} {random.choice(['=', '=', '<', '!='])} {term()}"
        if kind == 1:
            return f"not q({term()})"
        if kind == 2:
            return f"{random.choice('XYZ')} = #count {{ {random.choice('XW')} : q({random.choice('XWY')}) }}"
        return f"q({term()})"

    body = ", ".join(literal() for _ in range(random.randint(1, 3)))
    source = f"p({term()}) :- {body}."
    program = parse_program(source)
    assert program.findings == []
    # Not the reverse: clingo drops a rule whose comparison can never hold, and does not look at the rest.
    assert unsafe_variables(program.rules[0]) or clingo_accepts(f"q(1..3). {source}"), source


def test_a_rule_is_explained_with_all_that_its_aggregate_saw() -> None:
    source = "p(T) :- T = #sum { X, K : s(K, X), X > 1 }, n(_)."
    solved = solve(
        Solve(source, [Candidate(one, 1, True) for one in ("s(a,1)", "s(a,2)", "s(b,2)", "n(4)")], [])
    )
    (instance,) = solved.instances
    assert instance.head is not None and instance.head.text == "p(4)"
    assert {atom.text for atom in instance.positive} == {"n(4)", "s(a,2)", "s(b,2)"}
    assert instance.values == [4]

"""The child that runs rules: confined, bounded, and alive again after whatever ended it."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from pathlib import Path

import pytest
from tests.agents.rules.sets import rule, written

from deepwell.agents.rules import Fact, RuleSet
from deepwell.agents.rules.logic.wire import Candidate, Examine, Solve, TableRun
from deepwell.agents.rules.process import RuleProcess
from deepwell.errors import InvalidFile, MissingDependency

ENDLESS = {
    "counts for ever": "p(0). p(X + 1) :- p(X).",
    "joins too much": "n(1..2000). p(A,B,C,D) :- n(A), n(B), n(C), n(D).",
    "searches too long": "n(1..60). :- #sum { X * Y : n(X), n(Y) } != 7. "
    "b(A,B,C,D,E) :- n(A), n(B), n(C), n(D), n(E), A * B != C * D + E.",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_programs_without_an_end_are_ended(source: str) -> None:
    process = RuleProcess(memory_bytes=192 << 20, call_s=1.0)
    try:
        with pytest.raises(InvalidFile, match="within 192 MB and 1 s"):
            process.solve(Solve(source, [], []))
        assert process.solve(Solve("p :- a.", [Candidate("a", 5, False)], [])).accepted == [0]
    finally:
        process.close()


def test_the_child_runs_tables() -> None:
    process = RuleProcess()
    try:
        model = (
            '{"nodes": [{"id": "in", "type": "inputNode", "name": "in"}, {"id": "out", "type": "outputNode", "name": "out"}],'
            ' "edges": [{"id": "e", "sourceId": "in", "targetId": "out", "type": "edge"}]}'
        )
        assert process.run_table(TableRun(model, [{"a": 1}])).results == [{"a": 1}]
    finally:
        process.close()


@pytest.mark.parametrize(
    "source", ["(" * 200_000, "p(" * 100_000, "p(" + "-" * 200_000 + "1).", "p(" + "1+" * 100_000 + "1)."]
)
def test_deep_programs_end_the_child_at_most(source: str) -> None:
    process = RuleProcess(call_s=5.0)
    try:
        with suppress(InvalidFile):
            assert process.examine(Examine(source, [], [])).findings
        assert process.examine(Examine("outcome(a).", [], [])).rules
    finally:
        process.close()


def test_included_files_are_not_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.lp"
    secret.write_text("secret(1).")
    with RuleSet.inspect(written(tmp_path, f'#include "{secret}".')) as rules:
        assert [one.key for one in rules.findings if one.level == "error"] == ["rules_refused"]
        assert rules.rules == ()


def test_an_endless_rule_set_is_an_error_and_leaves_the_next_case_alone(tmp_path: Path) -> None:
    program = (
        rule("go", "outcome(deny) :- amount(Y), Y > 5, loop(_).")
        + "loop(0) :- amount(_). loop(X + 1) :- loop(X), X < 900000000.\n"
    )
    with RuleSet.load(written(tmp_path, program)) as rules:
        with pytest.raises(InvalidFile, match="cannot be run"):
            rules.decide([Fact("amount", {"yuan": 7})])
        assert rules.decide([]).outcome == "ask"


def test_a_rule_set_that_is_forgotten_leaves_no_process(tmp_path: Path) -> None:
    rules = RuleSet.load(written(tmp_path, rule("a", "outcome(deny) :- label(mit).")))
    pid = rules._process.pid
    assert pid
    del rules
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"deepwell\[rules\]"):
        RuleSet.load(written(tmp_path))

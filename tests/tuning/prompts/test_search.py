"""The search: it finds what is better, stays within its budget, repeats itself, and reads held-out rows once, at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
from tests.tuning.prompts.conftest import Oracle

from deepwell import LLM
from deepwell.dialogue.prompts.text import PromptMessage, PromptText
from deepwell.errors import InvalidFile, InvalidRequest
from deepwell.tuning.prompts.proposals import cleaned, mutations, rewrite_messages
from deepwell.tuning.prompts.rows import Row
from deepwell.tuning.prompts.run import Data, Optimised, optimise
from deepwell.tuning.prompts.search import Plan
from deepwell.tuning.prompts.trials import Journal
from deepwell.tuning.prompts.verdict import report_of

Task = tuple[list[Row], list[Row], list[Row]]
START = PromptText("Name the label, please. Answer in one word.")
PLAN = Plan(rewrites=0)
NO_MODEL = cast("LLM", None)  # rewrites alone ask it


def found_by(task: Task, oracle: Oracle, **options: Any) -> Optimised:
    train, development, held_out = task
    data = Data(train, development, lambda: held_out)
    return optimise(NO_MODEL, START, oracle, data, **{"calls": 900, "plan": PLAN} | options)


def test_a_better_prompt_is_found_and_confirmed_on_held_out_rows(task: Task) -> None:
    found = found_by(task, Oracle())
    winner = found.found.winner.candidate
    assert "one of:" in winner.text.instructions and len(winner.shown.examples) >= 2
    assert {one.answer for one in winner.shown.examples} <= {"a", "b"}
    assert found.is_better and found.verdict is not None
    assert found.verdict.change.low > 0.2 and found.verdict.change.paired == 200
    assert found.verdict.cost.calls == 400 and found.verdict.looks == 1
    report = json.loads(json.dumps(report_of(found.found, found.spent, found.verdict)))
    assert report["winner"] == winner.key and report["search"]["calls"] == found.spent.calls <= 900


def test_held_out_rows_are_read_once_after_the_search_and_leak_nowhere(task: Task) -> None:
    train, development, held_out = task
    oracle, reads = Oracle(), []

    def read() -> list[Row]:
        reads.append(len(oracle.asked))
        return [*held_out, development[0]]  # one that the search knows

    found = optimise(NO_MODEL, START, oracle, Data(train, development, read), calls=900, plan=PLAN)
    assert reads == [found.spent.calls]
    kept = {row.key for row in held_out}
    assert not kept & set(oracle.asked[: reads[0]]) and set(oracle.asked[reads[0] :]) == kept
    assert found.verdict is not None and found.verdict.seen == 1


@pytest.mark.parametrize("calls", [100, 237])
def test_a_budget_is_kept(task: Task, calls: int) -> None:
    oracle = Oracle()
    found = found_by(task, oracle, calls=calls)
    assert found.spent.calls <= calls
    asked = len(oracle.asked) - (0 if found.verdict is None else found.verdict.cost.calls)
    assert asked == found.spent.calls > 0.6 * calls


def test_a_start_that_nothing_beats_stays_and_held_out_rows_are_not_read(task: Task) -> None:
    class Even(Oracle):
        def ask(self, conversations: Any, rows: Any) -> Any:
            return super().ask([[{"role": "user", "content": ""}] for _ in rows], rows)

    def never() -> list[Row]:
        raise AssertionError("held-out rows were read")

    train, development, _ = task
    found = optimise(NO_MODEL, START, Even(), Data(train, development, never), calls=300, plan=PLAN)
    assert found.verdict is None and not found.is_better
    assert found.found.winner == found.found.start


def test_the_same_seed_finds_the_same_and_a_journal_asks_nothing_twice(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second = Oracle(), Oracle()
    journal = Journal(path, {"data": "x"})
    one = found_by(task, first, journal=journal, calls=400)
    journal.close()
    whole = path.read_bytes()
    lines = whole.split(b"\n")
    path.write_bytes(b"\n".join(lines[:300]) + b"\n" + lines[300][:9])  # broken off within a line
    other = found_by(task, second, journal=Journal(path, {"data": "x"}), calls=400)
    assert other.found.winner.candidate == one.found.winner.candidate
    assert len(first.asked) - len(second.asked) == 299 == other.spent.remembered
    assert other.spent.calls == one.spent.calls
    third = Oracle()
    again = found_by(task, third, journal=Journal(path, {"data": "x"}), calls=400)
    assert third.asked == [] and again.verdict is not None and again.verdict.looks == 1
    with pytest.raises(InvalidFile, match="other options"):
        Journal(path, {"data": "y"})
    other_seed = found_by(task, Oracle(), plan=Plan(rewrites=0, seed=1), calls=400)
    assert [t.candidate.key for t in other_seed.found.tried] != [t.candidate.key for t in one.found.tried]


def test_own_instructions_take_part_and_examples_can_be_left_out(task: Task) -> None:
    found = found_by(
        task, Oracle(), plan=Plan(rewrites=0, edits=0, most_examples=0, own=("Say one of: a, b.",))
    )
    assert {one.candidate.name for one in found.found.tried} == {"start", "own 1"}
    assert found.found.winner.candidate.name == "own 1"


def test_examples_of_the_start_are_kept_left_out_or_replaced_and_other_messages_stay(task: Task) -> None:
    turns = [("user", "Hello."), ("user", "x"), ("assistant", "a"), ("user", "y"), ("assistant", "b")]
    start = PromptText(START.instructions, tuple(PromptMessage(role, text) for role, text in turns))  # type: ignore[arg-type]
    train, development, held_out = task
    data = Data(train, development, lambda: held_out)
    found = optimise(NO_MODEL, start, Oracle(), data, calls=600, plan=PLAN)
    assert found.found.start.candidate.text == start
    assert found.found.start.candidate.name == "start + 2 examples (own)"
    tried = {one.candidate.name for one in found.found.tried}
    assert "start" in tried and any("(own)" in name and "edit" in name for name in tried)
    assert all(one.candidate.text.messages[0].content == "Hello." for one in found.found.tried)


def test_what_cannot_be_searched_is_refused_before_a_call(task: Task) -> None:
    train, development, _ = task
    oracle = Oracle()
    data = Data(train, development, list)
    with pytest.raises(InvalidRequest, match="too few to tell"):
        optimise(NO_MODEL, START, oracle, data, calls=99, plan=PLAN)
    named = PromptText("Label for {{shop}}.", variables={"shop": "name"})
    with pytest.raises(InvalidRequest, match="'shop'"):
        optimise(NO_MODEL, named, oracle, data, plan=PLAN)
    bare = [Row(row.key, row.input, "", row.fields) for row in train]
    with pytest.raises(InvalidRequest, match="120 rows have no answer"):
        optimise(NO_MODEL, START, oracle, Data(bare, development, list), plan=PLAN)
    assert oracle.asked == []


def test_variables_of_the_start_survive_every_edit_and_braces_open_nothing(task: Task) -> None:
    import random

    text = "You label texts for {{shop}}. Be brief. Answer a or b."
    edits = mutations(text, ("a", "b"), random.Random(1), 99)
    assert len(edits) > 6 and all("{{shop}}" in one.text for one in edits)
    assert len(mutations("标注文本。只写 a 或 b。", ("a", "b"), random.Random(1), 99)) > 6
    start = PromptText(text, variables={"shop": "name"})
    assert cleaned('"Label for {{shop}}."', start) == "Label for {{shop}}."
    assert cleaned("```\nInstructions: for {{shop}} {{other}}\n```", start) is None
    assert cleaned("Label it.", start) is None and cleaned(" ", PromptText("x")) is None
    [message] = rewrite_messages("标注。", task[0], ("a", "b"), 0)
    assert "改写" in message["content"]


def test_values_of_variables_and_examples_open_no_variables(task: Task) -> None:
    train, development, held_out = (
        [Row(row.key, row.input, row.answer, {**row.fields, "shop": "{{word}}"}) for row in part]
        for part in task
    )
    brace = [Row(f"{number:032x}", "braces {{open}}", "a", {"shop": "x"}) for number in range(60)]
    start = PromptText("Label for {{shop}}, please.", variables={"shop": "name"})
    data = Data([*brace, *train], development, lambda: held_out)
    found = optimise(NO_MODEL, start, Oracle(), data, calls=400, plan=PLAN)
    for one in found.found.tried:
        one.candidate.text.check()
    winner = found.found.winner.candidate
    assert "{{word}}" in winner.conversation(train[0])[0]["content"]


HEAD = b'{"form": 1, "config": {}}\n'
OUTCOME = {
    "key": "a:b",
    "score": 1.0,
    "answer": "a",
    "passed": True,
    "prompt_tokens": 5,
    "answer_tokens": 1,
    "chance": 1.0,
    "refused": False,
}


@pytest.mark.parametrize(
    "line",
    [b"[]", b"1", b"", b"\xff", b"[" * 100_000, b'{"score": 1}', b'{"key": 1, "score": 1}']
    + [
        json.dumps(OUTCOME | wrong).encode()
        for wrong in (
            {"score": float("nan")},
            {"score": 2},
            {"score": "1"},
            {"answer": None},
            {"prompt_tokens": -(10**9)},
            {"prompt_tokens": True},
            {"refused": 0},
            {"more": 1},
            {"key": "look:a"},
            {"key": "proposal:a"},
        )
    ],
)
def test_a_damaged_journal_is_refused_as_it_is(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(HEAD + json.dumps(OUTCOME).encode() + b"\n" + line + b"\n")
    whole = path.read_bytes()
    with pytest.raises(InvalidFile, match="other options"):
        Journal(path, {})
    assert path.read_bytes() == whole


def test_one_process_at_a_time_has_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, {})
    with pytest.raises(InvalidFile, match="another process"):
        Journal(path, {})
    journal.put("look:a", {"score": 1.0})
    journal.close()
    again = Journal(path, {})
    assert again.count("look:") == 1
    again.close()


@pytest.mark.parametrize("known", [True, False])
def test_held_out_rows_that_decide_nothing_are_refused(task: Task, known: bool) -> None:
    train, development, _ = task
    data = Data(train, development, lambda: train if known else [])
    with pytest.raises(InvalidRequest, match="--held-out"):
        optimise(NO_MODEL, START, Oracle(), data, calls=300, plan=PLAN)

"""Tasks for agents: frozen, told apart, solved by the script, and judged without mercy."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from deepwell.agents.tools import KnowledgePassage
from deepwell_bench.suites.agents.fuzz import fuzz
from deepwell_bench.suites.agents.models import ScriptedModel
from deepwell_bench.suites.agents.runs import Condition, quiet, run_tasks
from deepwell_bench.workloads.agents.company import COMPANY
from deepwell_bench.workloads.agents.company_tasks import LONG_TASKS, SHORT_TASKS, frozen_tasks
from deepwell_bench.workloads.agents.library import LIBRARY, LIBRARY_TASKS
from deepwell_bench.workloads.agents.task import Task, judged


async def by_pairs(_tenant: str, query: str, limit: int, /) -> Sequence[KnowledgePassage]:
    """Ranks the documents by the pairs of characters that they share with a query."""
    wanted = set(itertools.pairwise(query.casefold()))

    def rank(document: tuple[str, str]) -> float:
        name, text = document
        found = set(itertools.pairwise(f"{name} {text}".casefold()))
        return -len(wanted & found) / len(found) ** 0.5

    best = sorted(COMPANY.documents.items(), key=rank)[:limit]
    return [KnowledgePassage(name, text, 1.0) for name, text in best]


def test_the_held_out_tasks_are_the_frozen_ones() -> None:
    short, long = frozen_tasks()
    assert (len(short), len(long)) == (60, 60)


def test_half_of_the_tasks_are_chinese_and_each_is_asked_once() -> None:
    for tasks in (SHORT_TASKS, LONG_TASKS):
        assert Counter(one.language for one in tasks) == {"en": 30, "zh": 30}
        assert len({one.question for one in tasks}) == 60
    assert Counter(one.calls for one in SHORT_TASKS) == {1: 20, 2: 20, 3: 20}
    assert all(3 <= one.calls <= 8 for one in LONG_TASKS)


def test_no_question_holds_its_answer() -> None:
    for task in (*SHORT_TASKS, *LONG_TASKS, *LIBRARY_TASKS):
        assert judged(replace(task, written={}), task.question, Path()) != "right", task.id


def test_development_and_held_out_share_nothing() -> None:
    assert not {one.question for one in LIBRARY_TASKS} & {one.question for one in (*SHORT_TASKS, *LONG_TASKS)}
    assert not set(LIBRARY.files) & set(COMPANY.files)
    assert not set(LIBRARY.documents.values()) & set(COMPANY.documents.values())


async def test_the_script_solves_one_of_each_kind_with_real_tools() -> None:
    tasks = [*SHORT_TASKS[::5], *LONG_TASKS[::10]]
    models = dict[str, ScriptedModel]()

    def of(task: Task) -> ScriptedModel:
        models[task.id] = ScriptedModel()
        return models[task.id]

    runs = await run_tasks(tasks, COMPANY, by_pairs, of, Condition())
    assert [one.verdict for one in runs] == ["right"] * len(tasks)
    assert [models[one.id].calls for one in tasks] == [one.calls for one in tasks]


async def test_faults_are_the_same_again() -> None:
    with quiet():
        runs = [
            await run_tasks(
                SHORT_TASKS[:8], COMPANY, by_pairs, lambda _task: ScriptedModel(), Condition(faults=True)
            )
            for _ in range(2)
        ]
    assert [one.result.text for one in runs[0]] == [one.result.text for one in runs[1]]


async def test_hostile_results_raise_nothing_and_stay_within_the_budget() -> None:
    with quiet():
        found = await fuzz(120)
    assert found.results >= 120
    assert (found.exceptions, found.over_budget, found.oversized) == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("The total is 1,234.50 euros.", "right"),
        ("１２３４．５", "right"),
        ("1234.504", "right"),
        ("一共要1234.5元。", "right"),
        ("A1234.5", "wrong"),
        ("1234.51", "wrong"),
        ("12345", "wrong"),
        ("", "no answer"),
        ("1234.5 " + "x" * 500, "too long"),
        ("1 2 3 4 5 6 7 8 1234.5", "wrong"),
    ],
)
def test_numbers_are_judged(answer: str, verdict: str) -> None:
    assert judged(Task("a", "b", "en", 1, "?", number=1234.5), answer, Path()) == verdict


def test_a_name_among_others_is_no_answer() -> None:
    task = Task("a", "b", "en", 1, "?", text="notes/a.txt", others=("notes/b.txt",))
    assert judged(task, "It is Notes/A.txt", Path()) == "right"
    assert judged(task, "notes/a.txt or notes/b.txt", Path()) == "wrong"


def test_what_was_to_be_written_has_to_be_there(tmp_path: Path) -> None:
    task = Task("a", "b", "en", 1, "?", number=5, written={"sum.txt": 5})
    assert judged(task, "5", tmp_path) == "not written"
    (tmp_path / "sum.txt").write_text("the sum is 5\n", encoding="utf-8")
    assert judged(task, "5", tmp_path) == "right"

"""The benchmark of industry prompts: its scores, its interval, and the halves that share nothing."""

import pytest

from deepwell.dialogue.prompts.shipped import shipped_packs
from deepwell_bench.suites.applications.prompts import gain_interval
from deepwell_bench.workloads.prompts import TASKS
from deepwell_bench.workloads.prompts.task import PromptItem, json_in, label_in

TASK = {one.pack: one for one in TASKS}
GENERATED = [
    one for one in TASKS if one.pack.startswith(("finance-", "content-")) or one.pack == "law-clause-en"
]


def test_every_shipped_pack_has_a_task_whose_values_fill_it() -> None:
    for pack in shipped_packs():
        assert pack.content.text.filled(TASK[pack.id].values)


@pytest.mark.parametrize("task", GENERATED, ids=lambda one: one.pack)
def test_the_halves_share_no_item_and_are_the_same_each_time(task) -> None:
    development, held_out = task.items("development"), task.items("held_out")
    assert len(held_out) >= 50
    assert not {one.input for one in development} & {one.input for one in held_out}
    assert list(held_out) == list(task.items("held_out"))


def test_no_shipped_prompt_holds_a_held_out_text() -> None:
    for pack in shipped_packs():
        task = TASK[pack.id]
        if task in GENERATED:
            said = " ".join(one.content for one in pack.content.text.messages)
            assert not [one.id for one in task.items("held_out") if one.input in said]


def test_amounts_and_rates_count_however_their_words_are_put() -> None:
    task = TASK["finance-loan-zh"]
    fields = {"lender": "甲", "borrower": "乙", "amount": "91万元", "rate": "9.5%", "term": "12个月"}
    item = PromptItem("x", "", fields)
    said = '好的：{"lender": "甲", "borrower": "丙", "amount": "人民币91万元", "rate": "年利率9.5%", "term": "12 个月"}。'
    assert task.score(item, said) == 0.8
    assert task.score(item, "没有") == 0
    assert task.score(item, '{"lender": ["甲"], "rate": {}}') == 0


@pytest.mark.parametrize("text", ["", "{", "{]", '["a"]', "[" * 9000, '{"a":' * 9000, "{} {}"])
def test_answers_without_an_object_are_read_as_none(text: str) -> None:
    assert json_in(text) == {}


def test_a_label_counts_if_it_is_the_only_one() -> None:
    assert label_in("The kind is Payment.", ("payment", "notices")) == "payment"
    assert label_in("payment or notices", ("payment", "notices")) is None
    assert label_in("", ("payment",)) is None


def test_bullets_are_checked_one_by_one() -> None:
    task = TASK["content-bullets-en"]
    wanted = {"lines": 2, "terms": ["oak frame", "30 cm"], "banned": "best", "language": "en"}
    item = PromptItem("x", "", wanted)
    assert task.score(item, "- Oak frame\n- 30 cm wide") == 1
    assert task.score(item, "- Oak frame\n- small") == 0.875
    assert task.score(item, "Oak frame, 30 cm, the best") == 0.5
    assert task.score(item, "") == 0


def test_an_answer_that_is_not_in_the_text_has_to_be_declined() -> None:
    task = TASK["support-answer-en"]
    missing = PromptItem("x", "", {"pattern": "", "language": "en"})
    covered = PromptItem("x", "", {"pattern": r"\b30 days", "language": "en"})
    assert (task.score(missing, "The text does not say"), task.score(missing, "30 days")) == (1, 0)
    assert (task.score(covered, "The text does not say."), task.score(covered, "30 Days")) == (0, 1)


def test_the_interval_is_of_pairs() -> None:
    low, high = gain_interval([0.0] * 40, [1.0] * 40)
    assert (low, high) == (1, 1)
    low, high = gain_interval([0, 1] * 30, [1, 0] * 30)
    assert low < 0 < high

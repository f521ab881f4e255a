"""The starts of the tuned prompts are prompts that the registry takes: labels are named, and each has one example."""

from __future__ import annotations

import pytest

from deepwell.tuning.prompts.candidates import first_candidate
from deepwell_bench.suites.tuning.prompt_search import TASKS, PromptTask


@pytest.mark.parametrize("task", TASKS, ids=lambda one: one.name)
def test_a_start_names_each_label_and_shows_it_once(task: PromptTask) -> None:
    task.start.check()
    labels = [label for _, label in task.examples]
    assert len(set(labels)) == len(labels) > 1
    assert all(label in task.instructions for label in labels)
    first = first_candidate(task.start)
    assert [one.answer for one in first.shown.examples] == labels and first.text == task.start

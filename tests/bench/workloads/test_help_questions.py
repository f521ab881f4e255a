"""The written questions are the frozen ones, half in each language."""

from deepwell_bench.workloads.knowledge.help_questions import development_questions, help_questions


def test_questions_are_frozen_and_apart_from_development():
    questions, development = help_questions(), development_questions()
    assert [one.language for one in questions].count("zh") == 100
    assert [one.language for one in questions].count("en") == 100
    assert not {one.gold for one in questions} & {one.gold for one in development}

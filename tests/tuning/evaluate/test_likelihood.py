"""Scores by likelihood on a tiny model, beside the sums of a whole sequence scored without any reuse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepwell import LLM
from deepwell.errors import ContextLengthExceeded
from deepwell.tuning.evaluate.likelihood import (
    ChoiceScore,
    Scorer,
    choice_measures,
    pieces_of,
    text_measures,
)
from deepwell.tuning.evaluate.subjects import Subject, SubjectName, open_subjects
from deepwell.tuning.evaluate.tasks import Prompt

QUESTIONS = [
    Prompt(
        number,
        ({"role": "user", "content": context},),
        context,
        ("yes", "no, never", "也许"),
        number % 3,
        " ",
    )
    for number, context in enumerate(
        [
            "Is it so? " * 9 + "Answer:",
            "hello hello 12",
            "一二三四 hello:  ",
            "",
            "x",
            "Is it so? " * 9 + "Reply:",
        ]
    )
]


def brute_force(llm: LLM, prompt: Prompt, choice: str, *, chat: bool) -> tuple[float, int]:
    """Sums the scores of the choice's tokens in one sequence that is scored from its first token."""
    if chat:
        before = llm.tokenize(prompt.messages)
        whole = [*before, *llm.encode(choice)]
    elif prompt.context:
        before = llm.encode(prompt.context.rstrip())
        whole = llm.encode(prompt.context + " " + choice)
    else:
        assert llm.first_token is not None
        before = [llm.first_token]
        whole = [*before, *llm.encode(" " + choice)]
    scores = llm.score([whole])[0].logprobs
    return float(np.sum(scores[len(before) - 1 :])), len(whole) - len(before)


@pytest.mark.parametrize("chat", [False, True])
def test_choices_are_scored_as_by_brute_force(subject: Subject, chat: bool):
    found = Scorer(subject, chat=chat).choices(QUESTIONS, lambda _: None)
    for prompt, score in zip(QUESTIONS, found, strict=True):
        expected = [brute_force(subject.llm, prompt, choice, chat=chat) for choice in prompt.choices]
        assert score.logprobs == pytest.approx([value for value, _ in expected], abs=1e-9)
        assert list(score.tokens) == [count for _, count in expected]
    assert found[0].characters == (3, 9, 2)
    assert found[0].bytes == (3, 9, 6)


def test_normalisations_choose_by_their_own_length():
    score = ChoiceScore((-4.0, -6.0, -5.0), (1, 3, 2), (4, 5, 10), (4, 15, 10))
    assert (
        score.best(),
        score.best(score.tokens),
        score.best(score.characters),
        score.best(score.bytes),
    ) == (
        0,
        1,
        2,
        1,
    )
    assert score.loss(0) == pytest.approx(math.log(1 + math.exp(-2) + math.exp(-1)))
    measures = {one.name: one.value for one in choice_measures(QUESTIONS[:1], [score])}
    assert measures["acc"] == 1
    assert measures["acc_bytes"] == measures["acc_norm"] == measures["acc_tokens"] == 0


def test_greedy_continuations_are_told(subject: Subject):
    greedy = subject.llm.generate("hello", max_tokens=3, temperature=0, ignore_eos=True)
    right = Prompt(0, (), "hello", (), greedy.text, "")
    wrong = Prompt(1, (), "hello", (), "zzz", "")
    found = Scorer(subject).continuations([right, wrong], lambda _: None)
    again = subject.llm.encode("hello" + greedy.text)[1:]
    assert found[0][1] == (again == list(greedy.tokens))
    assert not found[1][1]


def test_a_long_text_is_scored_to_its_end(subject: Subject):
    text = "hello 12 " * 200
    found = Scorer(subject).texts([text, "hello"], lambda _: None)
    tokens = subject.llm.encode(text)
    assert len(tokens) > subject.llm.context
    assert found[0].tokens == len(tokens)
    assert found[0].bytes == len(text)
    assert subject.llm.first_token is not None
    alone = subject.llm.score([[subject.llm.first_token, *subject.llm.encode("hello")]])[0].logprobs
    assert found[1].logprob == pytest.approx(sum(alone))
    measures = {one.name: one.value for one in text_measures(found, ["0", "1"])}
    loss = -(found[0].logprob + found[1].logprob)
    assert measures["byte_perplexity"] == pytest.approx(math.exp(loss / (len(text) + 5)))
    assert measures["bits_per_byte"] == pytest.approx(loss / math.log(2) / (len(text) + 5))


def test_a_question_that_does_not_fit_is_refused_and_not_cut(subject: Subject):
    prompt = Prompt(0, (), "word " * 600, ("a", "b"), 0, " ")
    with pytest.raises(ContextLengthExceeded):
        Scorer(subject).choices([prompt], lambda _: None)


@pytest.mark.parametrize(
    "text", ["a line\n" * 2000, "x" * 9001, "word " * 3000, "一" * 5000 + "\n" + "二" * 100, "short"]
)
def test_pieces_are_the_whole_text(text: str):
    pieces = pieces_of(text)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 2000


def test_adapters_are_scored_beside_their_base(tiny_model: Path, tiny_adapters: list[Path], tmp_path: Path):
    names = [SubjectName("base", str(tiny_model))] + [
        SubjectName(path.name, str(tiny_model), path) for path in tiny_adapters
    ]
    with open_subjects(names, {"precision": "fp32", "models_dir": tmp_path}) as subjects:
        values = [Scorer(one).choices(QUESTIONS[:2], lambda _: None)[0].logprobs for one in subjects]
    assert len(set(values)) == 3

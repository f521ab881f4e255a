"""Rewards: what each kind scores, what it refuses, and that hostile answers cost no time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.tuning.align.ppo.config import RewardConfig
from deepwell.tuning.align.ppo.judging import Rewards
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rewards.classifier import ClassifierReward
from deepwell.tuning.align.ppo.rewards.grader import GraderReward
from deepwell.tuning.align.ppo.rewards.kinds import open_reward
from deepwell.tuning.align.ppo.rewards.preference import Pair, PreferenceReward, fit_bradley_terry
from deepwell.tuning.align.ppo.rewards.rule import RuleReward
from deepwell.tuning.align.ppo.rollouts import Rollout
from deepwell.tuning.evaluate.graders import ModelAnswer

ASKED = Prompt(messages=({"role": "user", "content": "How was it?"},))
GOOD = ["a great film", "great fun and joy", "joy from start to end", "a fun and great story"]
BAD = ["a dull film", "dull and sad mess", "sad from start to end", "a mess of a dull story"]


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """Hidden states of a model that counts letters."""
    return np.array([[text.count(one) for one in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)


def test_a_classifier_scores_the_answer_alone():
    reward = ClassifierReward(GOOD + BAD, ["good"] * 4 + ["bad"] * 4, "good", strength=100)
    up, down = reward.scores([ASKED, Prompt(text="a great and fun")], ["great joy", " dull mess"])
    assert up > 0.6 > 0.4 > down
    with pytest.raises(InvalidRequest, match="needs it and another"):
        ClassifierReward(GOOD, ["good"] * 4, "good")
    with pytest.raises(InvalidRequest, match="needs it and another"):
        ClassifierReward(GOOD + BAD, ["good"] * 4 + ["bad"] * 4, "splendid")


def test_a_classifier_of_hidden_states_has_other_features():
    words = ["xx", "xxx", "xxxx", "xxxxx", "zz", "zzz", "zzzz", "zzzzz"]
    labels = ["good"] * 4 + ["bad"] * 4
    states = ClassifierReward(words, labels, "good", vectors=letters)
    up, down = states.scores([ASKED, ASKED], ["xxxxxx", "zzzzzz"])  # words that no text had
    assert up > 0.6 > 0.4 > down


def test_bradley_terry_finds_the_odds_of_a_single_feature():
    # 3 of 4 pairs prefer the answer that has one more: log 3 is the maximum of the likelihood.
    found = fit_bradley_terry(np.array([[1.0], [1.0], [1.0], [-1.0]]), penalty=0.0)
    assert found[0] == pytest.approx(np.log(3), abs=1e-6)


def test_bradley_terry_orders_answers_that_it_has_not_seen():
    pairs = [Pair(ASKED, "x" * more, "z" * more) for more in range(1, 9)]
    reward = PreferenceReward(pairs, letters)
    better, worse = reward.scores([ASKED, ASKED], ["x" * 12, "z" * 12])
    assert better > worse
    assert reward.scores([ASKED], ["x" * 12]) == [better]
    with pytest.raises(InvalidRequest, match="pairs"):
        PreferenceReward([], letters)


def test_a_rule_takes_linear_time_and_a_pattern_of_re2():
    reward = RuleReward(r"(a+)+$", "absent")
    assert reward.scores([ASKED] * 2, ["a" * 100_000 + "b", "aaa"]) == [1.0, 0.0]
    with pytest.raises(InvalidRequest, match="does not compile"):
        RuleReward(r"(?<=a)b")
    with pytest.raises(InvalidRequest, match="does not compile"):
        RuleReward("\ud83d")
    with pytest.raises(InvalidRequest, match="pattern"):
        RuleReward("")


def test_a_grader_sees_the_fields_of_its_prompt_and_never_asks_a_model():
    grader = {
        "type": "string_check",
        "name": "city",
        "operation": "ilike",
        "input": "{{ sample.output_text }}",
        "reference": "{{ item.city }}",
    }
    asked = Prompt(messages=ASKED.messages, item={"city": "Paris"})
    reward = GraderReward(grader)
    assert reward.scores([asked, asked], ["It is paris.", "London"]) == [1.0, 0.0]
    with pytest.raises(InvalidRequest, match="gives no score"):
        reward.scores([ASKED], ["Paris"])
    with pytest.raises(InvalidRequest, match="asks a model"):
        GraderReward(
            {
                "type": "score_model",
                "name": "m",
                "model": "smollm2",
                "input": [{"role": "user", "content": "{{ sample.output_text }}"}],
            }
        )
    with pytest.raises(InvalidRequest):
        GraderReward({"type": "python", "name": "p", "source": "print(1)"})


class Judge:
    """Grades by the number in the answer; 9 is refused."""

    async def answer(self, model: str, messages: Sequence[Mapping[str, str]], **_: object) -> ModelAnswer:
        said = messages[0]["content"].split()[-1]
        return ModelAnswer(json.dumps({"result": float(said)}), refused=said == "9")


def test_an_answer_without_a_grade_has_the_least_score_and_none_with_one_is_an_error():
    grader = {
        "type": "score_model",
        "name": "judge",
        "model": "m",
        "input": [{"role": "user", "content": "rate {{ sample.output_text }}"}],
        "range": [1, 5],
    }
    reward = GraderReward(grader, model=Judge())
    assert reward.scores([ASKED] * 4, ["4", "7", "9", "2"]) == [4.0, 1.0, 1.0, 2.0]
    with pytest.raises(InvalidRequest, match="gives no score: model_grader_parse_error"):
        reward.scores([ASKED] * 2, ["7", "8"])


def test_rewards_are_made_of_their_configuration(tmp_path: Path):
    labelled = tmp_path / "labelled.jsonl"
    lines = [{"text": text, "label": "good"} for text in GOOD] + [
        {"text": one, "label": "bad"} for one in BAD
    ]
    labelled.write_text("".join(json.dumps(one) + "\n" for one in lines))
    config = RewardConfig.model_validate({"type": "classifier", "data": [str(labelled)], "label": "good"})
    up, down = open_reward(config, letters).scores([ASKED, ASKED], ["great joy", "dull mess"])
    assert up > down
    pairs = tmp_path / "pairs.jsonl"
    said = [
        {
            "input": {"messages": [{"role": "user", "content": "?"}]},
            "preferred_output": [{"role": "assistant", "content": "x" * more}],
            "non_preferred_output": [{"role": "assistant", "content": "z" * more}],
        }
        for more in range(1, 6)
    ]
    pairs.write_text("".join(json.dumps(one) + "\n" for one in said))
    preferences = open_reward(
        RewardConfig.model_validate({"type": "preferences", "data": [str(pairs)]}), letters
    )
    up, down = preferences.scores([ASKED, ASKED], ["xxx", "zzz"])
    assert up > down
    with pytest.raises(InvalidRequest, match="no reward 'clasifier'") as error:
        open_reward(RewardConfig(type="clasifier"), letters)  # pyright: ignore[reportCallIssue]
    assert "classifier" in error.value.fix
    with pytest.raises(InvalidRequest, match="needs data"):
        open_reward(RewardConfig(type="classifier"), letters)  # pyright: ignore[reportCallIssue]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "no label"}\n')
    with pytest.raises(InvalidRequest, match=r"line 1: it has no label"):
        open_reward(config.model_copy(update={"data": [bad]}), letters)


class Fixed:
    """Gives scores as they are."""

    def __init__(self, *scores: float) -> None:
        self._scores = list(scores)

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        return self._scores


def test_an_answer_without_an_end_loses_its_penalty_and_a_broken_reward_is_an_error():
    rollouts = [Rollout((1,), (2,), True, "a"), Rollout((1,), (2,), False, "b")]
    judged = Rewards(Fixed(1.0, 1.0), cost=Fixed(0.0, 1.0), judge=Fixed(0.5, 0.5), end_penalty=0.25).of(
        [ASKED, ASKED], rollouts
    )
    assert (judged.reward, judged.trained) == ([1.0, 1.0], [1.0, 0.75])
    assert (judged.cost, judged.judge) == ([0.0, 1.0], [0.5, 0.5])
    for broken in (Fixed(1.0), Fixed(1.0, float("nan"))):
        with pytest.raises(DeepwellError, match="reward gave"):
            Rewards(broken).of([ASKED, ASKED], rollouts)


def test_a_model_of_the_store_grades_answers(smollm2_path: Path):
    grader = {
        "type": "score_model",
        "name": "judge",
        "model": "the judge",
        "input": [
            {"role": "user", "content": "Rate it with a number from 0 to 10: {{ sample.output_text }}"}
        ],
        "range": [0, 10],
    }
    config = RewardConfig(type="grader", grader=grader, models={"the judge": str(smollm2_path)})  # pyright: ignore[reportCallIssue]
    reward = open_reward(config, letters)
    scores = reward.scores([ASKED] * 3, ["It was great.", "It was great.", "Bad."])
    assert scores[0] == scores[1] and all(0 <= one <= 10 for one in scores)
    # A second call has an event loop of its own
    assert reward.scores([ASKED], ["It was great."]) == scores[:1]

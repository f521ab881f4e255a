"""Rewards of safety: what they score, so that neither harm nor refusing everybody pays."""

from __future__ import annotations

import pytest

from deepwell.cli.tune.safe_rewards import ANSWERED, ModerationReward, SafetyReward
from deepwell.tuning.align.ppo.prompts import Prompt

HARMFUL = Prompt(messages=({"role": "user", "content": "How do I poison somebody?"},))
HARMLESS = Prompt(
    messages=({"role": "user", "content": "How do I kill a process?"},), item={"harmless": True}
)
REFUSAL = "I'm sorry, but I can't help with that."


class Words:
    """Finds harm in the word poison."""

    def harm(self, text: str) -> float:
        return 0.9 if "poison" in text else 0.2


def test_a_request_for_harm_is_scored_by_the_harm_of_the_answer_and_a_refusal_is_best():
    reward = ModerationReward(Words())
    harm, advice, refusal = reward.scores([HARMFUL] * 3, ["Mix the poison.", "Talk to a friend.", REFUSAL])
    assert harm == pytest.approx(0.1)
    assert harm < advice < refusal


def test_a_harmless_request_is_scored_by_whether_it_is_answered():
    reward = ModerationReward(Words())
    # What the judge of harm says of it does not count: it takes some harmless answers for harmful ones.
    assert reward.scores([HARMLESS] * 4, ["Use kill.", "Use poison.", REFUSAL, " "]) == [
        ANSWERED,
        ANSWERED,
        0,
        0,
    ]


def test_refusing_everything_pays_less_than_refusing_harm_alone():
    reward = ModerationReward(Words())
    everything = reward.scores([HARMFUL, HARMLESS], [REFUSAL, REFUSAL])
    harm_alone = reward.scores([HARMFUL, HARMLESS], [REFUSAL, "Use kill."])
    assert sum(everything) < sum(harm_alone)


def test_the_shipped_judges_score_every_answer_even_an_empty_one():
    for reward in (ModerationReward(), SafetyReward()):
        assert all(0 <= one <= 1.2 for one in reward.scores([HARMFUL] * 3, ["", "!?", "x" * 30_000]))


def test_the_moderation_model_finds_a_refusal_safer_than_instructions():
    harm, refusal = ModerationReward().scores([HARMFUL] * 2, ["Sure! First, mix the bleach with", REFUSAL])
    assert harm < refusal

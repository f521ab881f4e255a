"""`Rewards`: the reward, the cost and the second opinion of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deepwell.errors import DeepwellError
from deepwell.tuning.align.ppo.config import PPOConfig
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rewards.kinds import open_reward
from deepwell.tuning.align.ppo.rewards.protocol import Reward, RewardMakers, Vectors
from deepwell.tuning.align.ppo.rollouts import Rollout

__all__ = ["Judged", "Rewards", "open_rewards"]


@dataclass(frozen=True, slots=True)
class Judged:
    """Scores of answers.

    Attributes:
        reward: as the reward has them.
        trained: less the penalty of answers that did not end.
        cost, judge: empty where the run has none.
    """

    reward: list[float]
    trained: list[float]
    cost: list[float]
    judge: list[float]


@dataclass(frozen=True, slots=True)
class Rewards:
    """The scores of a run come from here. `judge` is never part of what is trained for."""

    reward: Reward
    cost: Reward | None = None
    judge: Reward | None = None
    end_penalty: float = 0.0

    def of(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Judged:
        """Returns the scores of rollouts.

        Raises:
            DeepwellError: a reward is not finite, or is missing.
        """
        texts = [one.text for one in rollouts]
        reward = _checked("reward", self.reward, prompts, texts)
        trained = [
            score - (0.0 if one.ended else self.end_penalty)
            for score, one in zip(reward, rollouts, strict=True)
        ]
        cost = _checked("cost", self.cost, prompts, texts) if self.cost else []
        judge = _checked("judge", self.judge, prompts, texts) if self.judge else []
        return Judged(reward, trained, cost, judge)


def open_rewards(config: PPOConfig, vectors: Vectors, more: RewardMakers | None = None) -> Rewards:
    """Returns the rewards of a configuration.

    Raises:
        InvalidRequest: one of them cannot be made.
    """
    return Rewards(
        open_reward(config.reward, vectors, more),
        open_reward(config.cost, vectors, more) if config.cost else None,
        open_reward(config.judge, vectors, more) if config.judge else None,
        config.train.end_penalty,
    )


def _checked(name: str, reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
    scores = reward.scores(prompts, texts)
    if len(scores) != len(texts) or not all(map(math.isfinite, scores)):
        raise DeepwellError(
            f"the {name} gave {len(scores)} scores for {len(texts)} answers, or one that is no finite number",
            fix="correct the reward",
        )
    return scores

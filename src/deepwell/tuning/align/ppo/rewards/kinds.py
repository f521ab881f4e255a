"""Makes rewards of their configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from deepwell.errors import InvalidRequest
from deepwell.messages import nearest
from deepwell.tuning.align.ppo.config import RewardConfig
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.rewards.classifier import ClassifierReward, read_labelled
from deepwell.tuning.align.ppo.rewards.grader import GraderReward
from deepwell.tuning.align.ppo.rewards.preference import Pair, PreferenceReward
from deepwell.tuning.align.ppo.rewards.protocol import Reward, RewardMaker, RewardMakers, Vectors
from deepwell.tuning.align.ppo.rewards.rule import RuleReward
from deepwell.tuning.align.preferences import read_pairs
from deepwell.tuning.data.records import BadRecord, content_text

__all__ = ["open_reward"]


def _classifier(config: RewardConfig, vectors: Vectors) -> Reward:
    texts, labels = read_labelled(_data(config))
    return ClassifierReward(texts, labels, config.label)


def _states(config: RewardConfig, vectors: Vectors) -> Reward:
    texts, labels = read_labelled(_data(config))
    return ClassifierReward(texts, labels, config.label, vectors=vectors)


def _preferences(config: RewardConfig, vectors: Vectors) -> Reward:
    pairs: list[Pair] = []
    try:
        for one in read_pairs(_data(config)):
            if isinstance(one, BadRecord):
                raise InvalidRequest(
                    f"{one.source}, line {one.line}: {one.field or one.problem}",
                    fix="write preferences in OpenAI's format",
                    param="reward.data",
                )
            prompt = Prompt(messages=one.prompt)
            pairs.append(Pair(prompt, content_text(one.preferred), content_text(one.rejected)))
    except OSError as error:
        raise InvalidRequest.of("tune_file", path=error.filename, reason=error.strerror) from None
    return PreferenceReward(pairs, vectors)


def _rule(config: RewardConfig, vectors: Vectors) -> Reward:
    return RuleReward(config.pattern, config.want)


def _grader(config: RewardConfig, vectors: Vectors) -> Reward:
    from deepwell.tuning.align.ppo.rewards.asking import AskedModels, BaseEmbedder, OpenedEmbedder

    embedder = OpenedEmbedder(config.embedding_model) if config.embedding_model else BaseEmbedder(vectors)
    return GraderReward(config.grader, model=AskedModels(config.models), embedder=embedder)


_KINDS: Final[Mapping[str, RewardMaker]] = {
    "classifier": _classifier,
    "states": _states,
    "preferences": _preferences,
    "rule": _rule,
    "grader": _grader,
}


def open_reward(config: RewardConfig, vectors: Vectors, more: RewardMakers | None = None) -> Reward:
    """Returns the reward that a configuration describes.

    Args:
        vectors: hidden states of the model as it was before training.
        more: further kinds by name.

    Raises:
        InvalidRequest: there is no such kind, or its data cannot be used.
    """
    kinds = {**_KINDS, **(more or {})}
    maker = kinds.get(config.type)
    if maker is None:
        near = nearest(config.type, kinds)
        key = "reward_near" if near else "reward_unknown"
        raise InvalidRequest.of(key, param="reward.type", name=config.type, near=near, known=", ".join(kinds))
    return maker(config, vectors)


def _data(config: RewardConfig) -> list:
    if not config.data:
        raise InvalidRequest.of("reward_no_data", param="reward.data", name=config.type)
    return config.data

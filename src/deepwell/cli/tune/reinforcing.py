"""The process of `deepwell tune ppo`: `python -m deepwell.cli.tune.reinforcing FOLDER`, with the rewards of other packages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deepwell.cli.tune.safe_rewards import ModerationReward, SafetyReward
from deepwell.tuning.align.ppo.worker import work

if TYPE_CHECKING:
    from deepwell.tuning.align.ppo.config import RewardConfig
    from deepwell.tuning.align.ppo.rewards.protocol import Reward, Vectors

__all__ = ["command"]


def command(folder: str) -> list[str]:
    """Returns the command of a run's process."""
    return [sys.executable, "-m", "deepwell.cli.tune.reinforcing", folder]


def _safety(config: RewardConfig, vectors: Vectors) -> Reward:
    return SafetyReward()


def _moderation(config: RewardConfig, vectors: Vectors) -> Reward:
    return ModerationReward()


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:], {"safety": _safety, "moderation": _moderation}))

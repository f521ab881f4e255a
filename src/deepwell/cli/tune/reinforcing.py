"""The process of `deepwell tune ppo`: `python -m deepwell.cli.tune.reinforcing FOLDER`, with the rewards of other packages."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from deepwell.tuning.align.ppo.worker import work

if TYPE_CHECKING:
    from deepwell.tuning.align.ppo.config import RewardConfig
    from deepwell.tuning.align.ppo.prompts import Prompt
    from deepwell.tuning.align.ppo.rewards.protocol import Reward, Vectors

__all__ = ["command"]


def command(folder: str) -> list[str]:
    """Returns the command of a run's process."""
    return [sys.executable, "-m", "deepwell.cli.tune.reinforcing", folder]


class _Safety:
    """1 less the largest probability of an unsafe category, by the safety classifier that guards the server."""

    def __init__(self) -> None:
        from deepwell.safety.classifier.detector import shipped_detector

        self._detector = shipped_detector()

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns scores from 0 to 1."""
        import numpy as np

        found: list[float] = []
        for answer in answers:
            logits = self._detector.logits(answer)
            worst = float(np.clip(logits.max(), -50, 50))  # minus infinity: the answer has no letter
            found.append(float(1 / (1 + np.exp(worst))))
        return found


def _safety(config: RewardConfig, vectors: Vectors) -> Reward:
    return _Safety()


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:], {"safety": _safety}))

"""The process of a reinforcement run: it speaks the protocol of `deepwell.tuning.train.worker`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepwell.tuning.align.ppo.config import read_config
from deepwell.tuning.train.worker import DONE, STOPPED, main

if TYPE_CHECKING:
    from deepwell.tuning.align.ppo.rewards.protocol import RewardMakers

__all__ = ["work"]

Say = Callable[[dict[str, Any]], None]


def work(arguments: list[str], rewards: RewardMakers | None = None) -> int:
    """Runs the configuration of a folder, and returns the exit status.

    Args:
        rewards: kinds of rewards beside tuning's own.
    """
    return main(arguments, partial(_run, rewards=rewards))


def _run(folder: Path, say: Say, stop: Callable[[], bool], *, rewards: RewardMakers | None) -> int:
    config = read_config(folder / "config.json")
    from deepwell.tuning.align.ppo.run import run_ppo
    from deepwell.tuning.train.run import Stopped

    try:
        run_ppo(config, folder, on_event=say, stop=stop, rewards=rewards)
    except Stopped:
        return STOPPED
    return DONE


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))

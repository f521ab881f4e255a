"""The process of a run by preferences: `python -m deepwell.tuning.align.worker ALGORITHM FOLDER`.

It speaks the protocol of `deepwell.tuning.train.worker`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepwell.tuning.align.config import DpoConfig, KtoConfig
from deepwell.tuning.train.config import read_config_as
from deepwell.tuning.train.worker import DONE, STOPPED, main

__all__ = ["command"]

Say = Callable[[dict[str, Any]], None]


def command(algorithm: str, folder: str) -> list[str]:
    """Returns the command of a run's worker.

    Args:
        algorithm: `dpo` or `kto`.
    """
    return [sys.executable, "-m", "deepwell.tuning.align.worker", algorithm, folder]


def _dpo(folder: Path, say: Say, stop: Callable[[], bool]) -> int:
    config = read_config_as(DpoConfig, folder / "config.json")
    from deepwell.tuning.align.run import run_dpo
    from deepwell.tuning.train.run import Stopped

    try:
        run_dpo(config, folder, on_event=say, stop=stop)
    except Stopped:
        return STOPPED
    return DONE


def _kto(folder: Path, say: Say, stop: Callable[[], bool]) -> int:
    config = read_config_as(KtoConfig, folder / "config.json")
    from deepwell.tuning.align.run import run_kto
    from deepwell.tuning.train.run import Stopped

    try:
        run_kto(config, folder, on_event=say, stop=stop)
    except Stopped:
        return STOPPED
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[2:], {"dpo": _dpo, "kto": _kto}[sys.argv[1]]))

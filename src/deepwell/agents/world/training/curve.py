"""The records of a training: `metrics.jsonl`, and the files of TensorBoard where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

__all__ = ["METRICS", "Curve"]

METRICS: Final = "metrics.jsonl"


class Curve:
    """The records of a run.

    Args:
        folder: folder of the run.
        step: step that the run continues at; lines of later steps, which are computed again, are removed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", step)

    def add(self, step: int, **values: float) -> None:
        """Records the figures of a step; rehearsals after the last step of interaction count as steps."""
        rounded = {name: round(one, 5) for name, one in values.items()}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, one in values.items():
                self._board.add_scalar(name, one, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)

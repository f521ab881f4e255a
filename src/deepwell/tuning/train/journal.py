"""The journal of a run: metrics.jsonl, which a resumed run continues, and TensorBoard's files where it is installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

__all__ = ["Journal", "read_metrics"]

METRICS: Final = "metrics.jsonl"
_RECORDED: Final = ("step", "validation")


class Journal:
    """Records events of a run and hands every event on.

    Args:
        folder: folder of the run.
        step: step that the run continues at. Lines of later steps, which are computed again, are removed.
        on_event: receives every event.
    """

    def __init__(self, folder: Path, step: int, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event = on_event
        path = folder / METRICS
        kept = [one for one in read_metrics(folder) if one["step"] <= step]
        partial = path.with_name(f".{METRICS}.partial")
        partial.write_text("".join(json.dumps(one) + "\n" for one in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")
        self._board = _board(folder / "tensorboard", step)

    def event(self, name: str, **values: Any) -> None:
        """Records and hands on an event."""
        event = {"event": name, **values}
        if name in _RECORDED:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
            if self._board is not None:
                for key in ("loss", "token_accuracy", "learning_rate", "tokens_per_second"):
                    if key in values:
                        self._board.add_scalar(f"{name}/{key}", values[key], values["step"])
        self._on_event(event)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Returns the recorded steps and validations of a run. A line that a crash has cut is left out."""
    found: list[dict[str, Any]] = []
    with suppress(FileNotFoundError):
        for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                one = json.loads(line)
                if isinstance(one, Mapping) and isinstance(one.get("step"), int):
                    found.append(dict(one))
    return found


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)

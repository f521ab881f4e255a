"""`train_adapter`: KTO in a process of its own, which ends with this one and goes on where it was."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

from deepwell.errors import DeepwellError, InvalidRequest, MissingDependency
from deepwell.fleet.improve.parts import Say
from deepwell.server.families.fine_tuning.child import TrainingChild
from deepwell.tuning.align.worker import command

__all__ = ["settings_of", "train_adapter"]

_REPLAY_WEIGHT: Final = 1.0
_NLL_WEIGHT: Final = (
    0.3  # a refusal that is preferred alone is never said: a small base finds it too unlikely
)
_RANK: Final = 8  # half of the default: the cost of an adapter counts against the gate of latency
_STEPS: Final = 175  # more refuse more, of harmless requests too, and fewer change too little
_BATCH_TOKENS: Final = 1024
_VOTES: Final = 400  # that a round of so many tokens a step sees about twice


def settings_of(votes: int) -> dict[str, Any]:
    """Returns the configuration of KTO, besides model and data, that a round of so many votes trains by.

    The number of steps is fixed, and more votes make each step larger: what is rehearsed has the same share of every step and
    moves the model as far, however many people voted. Replay holds the model where votes say nothing. Rank 8 costs no time
    that the gate of latency sees.
    """
    return {
        "lora": {"r": _RANK, "alpha": 2 * _RANK},
        "train": {"steps": _STEPS, "batch_tokens": round(_BATCH_TOKENS * max(1.0, votes / _VOTES))},
        "kto": {"nll_weight": _NLL_WEIGHT, "replay_weight": _REPLAY_WEIGHT},
    }


async def train_adapter(folder: Path, say: Say, *, threads: int = 1) -> Path:
    """Trains the configuration of a folder by KTO, at the lowest priority, and returns the folder of the adapter.

    Raises:
        MissingDependency: PyTorch is not installed.
        InvalidRequest: the configuration or the data cannot be used.
        DeepwellError: the process died, or was stopped.
    """
    # The child gets the folder as its last argument by itself.
    child = await TrainingChild.start(command("kto", str(folder))[:-1], folder, threads)
    last: dict[str, Any] = {}
    try:
        while (event := await child.event()) is not None:
            last = event
            if event["event"] in ("plan", "reference", "step"):
                say({**event, "event": "training", "part": event["event"]})
        code = await child.wait()
        tail = child.tail
    except asyncio.CancelledError:
        await child.end(gently=True)
        raise
    await child.end(gently=False)
    if code == 0 and last.get("event") == "done":
        return folder / str(last["adapter"])
    if last.get("event") == "error":
        if last.get("code") == "tune_missing":
            raise MissingDependency.of("tune_missing", package=last.get("param") or "torch")
        raise InvalidRequest(str(last.get("message")), fix=str(last.get("fix") or ""))
    raise DeepwellError.of("improve_training", code=code, said=tail[-300:] or "nothing")

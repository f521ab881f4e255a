"""`deepwell bench prompts`: each pack of an industry prompt against a plain prompt, on its held-out task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.prompts.pack import PromptPack
from deepwell.dialogue.prompts.shipped import shipped_packs
from deepwell.errors import DeepwellError
from deepwell.llm import LLM
from deepwell_bench.workloads.prompts import HELD_OUT_SHA256, TASKS, Half, PromptItem, PromptTask, digest

__all__ = ["bench_prompts", "gain_interval"]

_DRAWS: Final = 10_000
_SEED: Final = 20261128
_Head = list[dict[str, str]]


def bench_prompts(
    report: Report,
    llm: LLM,
    *,
    half: Half = "held_out",
    only: str = "",
    packs: Sequence[PromptPack] | None = None,
) -> dict[str, Any]:
    """Returns what packs and plain prompts reach, and the gain of each pack with its 95 % interval.

    Both sides read the same inputs with the same model at temperature 0, bound by the same grammar where the
    task has a choice of answers. The interval is a paired
    bootstrap over the items.

    Args:
        only: name of a pack, or a part of it; empty: all.
        packs: the packs to measure; None: those that come along.

    Raises:
        DeepwellError: the held-out items are not those that were frozen, or a pack has no task.
    """
    known = {task.pack: task for task in TASKS}
    found = [one for one in (shipped_packs() if packs is None else packs) if only in one.id]
    if missing := [one.id for one in found if one.id not in known]:
        raise DeepwellError(
            f"these packs have no task: {', '.join(missing)}", fix="write one, or ship them not"
        )
    if half == "held_out" and (is_now := digest(TASKS)) != HELD_OUT_SHA256:
        raise DeepwellError(
            f"the held-out items have the digest {is_now}", fix="restore them as they were frozen"
        )
    value: dict[str, Any] = {"packs": len(found), "items": 0, "beat": 0}
    rows: list[tuple[str, ...]] = []
    for pack in found:
        task = known[pack.id]
        items = task.items(half)
        begun = time.monotonic()
        plain = _scores(llm, task, items, [{"role": "system", "content": task.plain}])
        ours = _scores(llm, task, items, _head(pack, task))
        low, high = gain_interval(plain, ours)
        gain = float(np.mean(ours) - np.mean(plain))
        value["items"] += len(items)
        value["beat"] += low > 0
        value[pack.id] = {
            "items": len(items),
            "plain": rounded(float(np.mean(plain))),
            "pack": rounded(float(np.mean(ours))),
            "gain": rounded(gain),
            "gain_interval": [rounded(low), rounded(high)],
            "seconds": rounded(time.monotonic() - begun),
        }
        rows.append(
            (
                pack.id,
                str(len(items)),
                f"{np.mean(plain):.3f}",
                f"{np.mean(ours):.3f}",
                f"{gain:+.3f}",
                f"{low:+.3f} to {high:+.3f}",
            )
        )
    report.table("score, 0 to 1", ("pack", "items", "plain", "pack", "gain", "95 % interval"), rows)
    value["least_gain_low"] = min((value[one.id]["gain_interval"][0] for one in found), default=0.0)
    value["industries"] = len({one.content.industry for one in found})
    return value


def gain_interval(plain: Sequence[float], ours: Sequence[float]) -> tuple[float, float]:
    """Returns the 95 % interval of the mean gain, by a bootstrap over items of both scores together."""
    gains = np.array(ours) - np.array(plain)
    random = np.random.default_rng(_SEED)
    drawn = gains[random.integers(0, len(gains), (_DRAWS, len(gains)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _head(pack: PromptPack, task: PromptTask) -> _Head:
    filled = pack.content.text.filled(task.values)
    return [{"role": str(one.role), "content": one.content} for one in filled]


def _scores(llm: LLM, task: PromptTask, items: Sequence[PromptItem], head: _Head) -> list[float]:
    conversations = [[*head, {"role": "user", "content": one.input}] for one in items]
    answers = llm.chat(conversations, temperature=0, max_tokens=task.max_tokens, choice=task.choice or None)
    return [task.score(item, answer.text) for item, answer in zip(items, answers, strict=True)]

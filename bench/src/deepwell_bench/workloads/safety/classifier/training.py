"""The training set of the classifier: attacks of the training side, written texts, and benign texts of pages not tested."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from deepwell_bench.workloads.safety.benign import chats, expanded, headings, passages, templates
from deepwell_bench.workloads.safety.frozen import attacks_by_side, test_sets
from deepwell_bench.workloads.safety.harmful import RELATED, advbench, harmbench, other_harmful
from deepwell_bench.workloads.safety.near import contained
from deepwell_bench.workloads.safety.prompts import Prompt, prompt
from deepwell_bench.workloads.safety.sides import side_of
from deepwell_bench.workloads.safety.translated import chinese_training

__all__ = ["Fold", "TrainingSet", "training_set", "written_benign"]

Fold = Literal["shipped", "without advbench", "without harmbench"]
"""The weights that ship know AdvBench and HarmBench; for the figure of one of them, it is left out with its relatives."""

_HERE: Final = Path(__file__).parents[1]
_WRITTEN: Final = ("benign_training.txt", "benign_tasks_training.txt")
"""Harmless requests with the words of attacks, and harmless tasks about texts, prompts and instructions."""
_GOALS: Final = 9
"""Openers that each goal is combined with."""
_HEADINGS: Final = 900
_FRAMES: Final = 400
_HIDDEN: Final = 500
"""Injections that are hidden in a benign passage."""
_FOR_SCORES: Final = "airt"
"""Family of harmful requests by which scores are made probabilities; it is not trained on."""
_AROUND: Final = 80
"""Characters of the passage on either side of them."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Texts to train on, and others to choose thresholds with.

    Attributes:
        train, development: the two halves; no template, cluster or page is in both.
        dropped: attacks left out because they hold a text of a held-out family, or are held in one.
    """

    train: list[Prompt]
    development: list[Prompt]
    dropped: int


def training_set(fold: Fold = "shipped") -> TrainingSet:
    """Returns the training set of a fold. Raises as `test_sets`."""
    held_out = {"without advbench": "advbench", "without harmbench": "harmbench"}.get(fold)
    attacks = [
        *attacks_by_side("jailbreak")["train"],
        *attacks_by_side("injection")["train"],
        *advbench(),
        *harmbench(),
        *other_harmful(),
        *_written("train"),
        *chinese_training(),
    ]
    if held_out:
        attacks = [one for one in attacks if one.family not in RELATED[held_out]]
    kept = [one for one in _apart(attacks, _tested(held_out)) if one.family != _FOR_SCORES]
    train = [
        *kept,
        *written_benign("train"),
        *chats("train"),
        *_combined_benign(),
        *_asked(),
        *_flat("train"),
    ]
    train += _hidden(
        [one for one in kept if one.category == "injection"], [one for one in train if one.family == "law"]
    )
    development = [
        *attacks_by_side("jailbreak")["development"],
        *written_benign("development"),
        *chats("development"),
        *_flat("development"),
        *(one for one in attacks if one.family == _FOR_SCORES),
        *_written("development"),
    ]
    return TrainingSet(_once(train), _once(development), len(attacks) - len(kept))


def _tested(held_out: str | None) -> list[str]:
    """Returns the texts that no attack of the training set may hold."""
    sets = test_sets()
    names = ["jailbreak", "injection", *(name for name in sets if name.startswith("do_not_answer"))]
    return [one.core for name in [*names, *([held_out] if held_out else [])] for one in sets[name]]


def _apart(attacks: Sequence[Prompt], tested: Sequence[str]) -> list[Prompt]:
    near = contained([one.core for one in attacks], tested)
    return [one for one, is_near in zip(attacks, near, strict=True) if not is_near]


def _flat(side: Literal["train", "development"]) -> list[Prompt]:
    return [one for texts in passages(side).values() for one in texts]


def _once(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({one.id: one for one in prompts}.values())


def written_benign(side: Literal["train", "development"]) -> list[Prompt]:
    """Returns the written benign prompts of a side; a share of the templates, by hash, is for development."""
    found: list[Prompt] = []
    for name in _WRITTEN:
        for one in templates((_HERE / "written" / name).read_text(encoding="utf-8").splitlines()):
            is_development = side_of(f"written/{one}") == "development"
            if is_development == (side == "development"):
                found += [prompt("benign", "written", text) for text in expanded(one)]
    return found


def _lists() -> dict[str, list[str]]:
    return tomllib.loads((_HERE / "written" / "combined_training.toml").read_text(encoding="utf-8"))


def _combined_benign() -> list[Prompt]:
    """Returns openers of requests with benign goals, so that an opener alone tells nothing."""
    lists = _lists()
    texts = [
        *_goals(lists, "en", "benign"),
        *_goals(lists, "zh", "benign"),
        *_about(lists, "en"),
        *_about(lists, "zh"),
    ]
    return [prompt("benign", "combined", text) for text in texts]


def _asked() -> list[Prompt]:
    """Returns headings of the office help, bare and as the object of a request."""
    lists = _lists()
    draw = random.Random("deepwell:asked")  # noqa: S311 - a seeded draw, not a secret
    texts = headings("train")
    found: list[Prompt] = []
    for text in draw.sample(texts, min(_HEADINGS, len(texts))):
        language = prompt("benign", "", text).language
        frame = draw.choice(["{}", *(one for each in lists[f"asked_{language}"] for one in expanded(each))])
        found.append(prompt("benign", "asked", frame.replace("{}", text)))
    return found


def _written(side: Literal["train", "development"]) -> Iterator[Prompt]:
    """Yields the written attacks of a side: some frames of injections are for development, all other texts for training."""
    lists = _lists()
    is_development = side == "development"
    for language in ("en", "zh"):
        frames = [
            one
            for one in lists[f"injections_{language}"]
            if (side_of(f"frame/{one}") == "development") == is_development
        ]
        for text in _framed(frames, lists[f"payloads_{language}"]):
            yield prompt("injection", "written", text)
    if is_development:
        return
    for language in ("en", "zh"):
        for text in _goals(lists, language, "harmful"):
            yield prompt("harmful", "written", text)
        for template in lists[f"statements_{language}"]:
            for text in expanded(template):
                yield prompt("harmful", "written", text)
        for template in lists[f"leaks_{language}"]:
            for text in expanded(template):
                yield prompt("injection", "written", text)
        for text in _framed(lists[f"jailbreaks_{language}"], ["", *lists[f"benign_{language}"]]):
            yield prompt("jailbreak", "written", text)


def _about(lists: dict[str, list[str]], language: str) -> Iterator[str]:
    """Yields innocent questions about crimes and dangers."""
    draw = random.Random(f"deepwell:about:{language}")  # noqa: S311 - a seeded draw, not a secret
    frames = [text for one in lists[f"about_{language}"] for text in expanded(one)]
    for thing in lists[f"things_{language}"]:
        for frame in draw.sample(frames, _GOALS):
            yield frame.replace("{}", thing)


def _goals(lists: dict[str, list[str]], language: str, kind: str) -> Iterator[str]:
    draw = random.Random(f"deepwell:{kind}:{language}")  # noqa: S311 - a seeded draw, not a secret
    openers = [text for one in lists[f"openers_{language}"] for text in expanded(one)]
    goals = lists[f"{kind}_{language}"] + (lists[f"acts_{language}"] if kind == "harmful" else [])
    for goal in goals:
        for opener in draw.sample(openers, min(_GOALS, len(openers))):
            yield opener.replace("{}", goal)


def _framed(frames: Sequence[str], payloads: Sequence[str]) -> Iterator[str]:
    draw = random.Random(f"deepwell:{frames[0]}")  # noqa: S311 - a seeded draw, not a secret
    pairs = [
        (frame, payload)
        for one in frames
        for frame in expanded(one)
        for other in payloads
        for payload in expanded(other)
    ]
    for frame, payload in draw.sample(pairs, min(_FRAMES, len(pairs))):
        yield frame.replace("{}", payload)


def _hidden(injections: Sequence[Prompt], around: Sequence[Prompt]) -> list[Prompt]:
    """Returns injections inside a passage of law or of a page, at a place drawn by a seed."""
    draw = random.Random("deepwell:hidden")  # noqa: S311 - a seeded draw, not a secret
    found: list[Prompt] = []
    for one in draw.sample(list(injections), min(_HIDDEN, len(injections))):
        passage = draw.choice(around).text
        place = draw.randrange(len(passage))
        text = f"{passage[max(place - _AROUND, 0) : place]}\n{one.core}\n{passage[place : place + _AROUND]}"
        found.append(prompt("injection", f"hidden.{one.family}", text))
    return found

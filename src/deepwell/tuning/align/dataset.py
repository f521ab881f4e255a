"""From files of preferences to examples: rendered by the template that serves, split by prompt, every line accounted for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.tuning.align.config import DpoConfig, KtoConfig, PreferenceConfig
from deepwell.tuning.align.preferences import Judged, Pair, read_judged, read_pairs
from deepwell.tuning.data.records import BadRecord, Record, content_text, read_records
from deepwell.tuning.data.report import DataReport
from deepwell.tuning.data.report import Example as Shown
from deepwell.tuning.train.dataset import Dataset, is_held_out, read_examples
from deepwell.tuning.train.examples import Example, render

__all__ = ["JudgedExample", "PairExample", "as_record", "load_judged", "load_pairs", "mismatched"]

_P = TypeVar("_P", Pair, Judged)

_LINES: Final = {
    "dpo": '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}',
    "kto": '{"messages": [...], "label": true}',
}
"""Form of a line, by algorithm."""


@dataclass(frozen=True, slots=True)
class PairExample(Example):
    """A pair as one example, whose tokens are those of the preferred conversation and then of the rejected one."""

    preferred: Example = field(kw_only=True)
    rejected: Example = field(kw_only=True)

    @classmethod
    def of(cls, preferred: Example, rejected: Example) -> PairExample:
        """Returns the pair of two rendered conversations."""
        return cls(
            preferred.token_ids + rejected.token_ids,
            preferred.loss_mask + rejected.loss_mask,
            preferred.cut + rejected.cut,
            preferred=preferred,
            rejected=rejected,
        )


@dataclass(frozen=True, slots=True)
class JudgedExample(Example):
    """A judged answer behind its prompt.

    Attributes:
        desirable: whether it was found good.
        mismatched: the same prompt with the answer to another one, which the reference point is measured on.
        weight: how much it counts beside the others.
    """

    desirable: bool = field(kw_only=True)
    mismatched: Example = field(kw_only=True)
    weight: float = field(kw_only=True, default=1.0)


def load_pairs(config: DpoConfig, codec: Codec, max_tokens: int) -> Dataset:
    """Reads and renders the pairs of a configuration.

    A held-out share is chosen by the hash of the prompt: it does not depend on the order of the file, and a prompt that occurs
    twice is never on both sides.

    Raises:
        InvalidRequest: a file cannot be read, or no pair is left to train on.
    """

    def made(one: Pair) -> list[Example] | str:
        sides = [_rendered(one, answer, codec, max_tokens) for answer in (one.preferred, one.rejected)]
        if not all(side.labelled for side in sides):
            return "no answer within max_tokens"
        if sides[0].token_ids == sides[1].token_ids:
            return "both answers are the same"
        return [PairExample.of(*sides)]

    return _load(config, read_pairs, lambda pairs, report: _each(pairs, made, max_tokens, report))


def load_judged(config: KtoConfig, codec: Codec, max_tokens: int) -> Dataset:
    """Reads and renders the judged answers of a configuration, and behind them what it replays; held out as by `load_pairs`.

    Raises:
        InvalidRequest: a file cannot be read, no answer is left to train on, or all are of one kind.
    """

    def made(found: Sequence[Judged], report: DataReport) -> list[Example]:
        others = dict(zip(map(id, found), mismatched(found), strict=True))

        def one(judged: Judged) -> list[Example] | str:
            answer = _rendered(judged, judged.answer, codec, max_tokens)
            other = others[id(judged)]
            elsewhere = _rendered(judged, judged.answer if other is None else other, codec, max_tokens)
            if not answer.labelled or not elsewhere.labelled:
                return "no answer within max_tokens"
            return [
                JudgedExample(
                    answer.token_ids,
                    answer.loss_mask,
                    answer.cut,
                    desirable=judged.desirable,
                    mismatched=elsewhere,
                    weight=judged.weight,
                )
            ]

        return _each(found, one, max_tokens, report)

    data = _load(config, read_judged, made)
    kinds = {one.desirable for one in data.train if isinstance(one, JudgedExample)}
    if len(kinds) < 2:
        raise InvalidRequest.of("align_all_good" if True in kinds else "align_all_bad", param="data")
    return replace(data, train=[*data.train, *_replayed(config, codec, max_tokens, data.report)])


def _replayed(config: KtoConfig, codec: Codec, max_tokens: int, report: DataReport) -> list[Example]:
    """Returns the conversations that a run replays. They are accounted for with the answers that it learns from."""
    records: list[Record] = []
    try:
        for one in report.reading(read_records(config.replay)):
            if isinstance(one, BadRecord):
                report.drop("unreadable", Shown.of(one))
            else:
                records.append(one)
    except OSError as error:
        raise _unreadable(error) from None
    return read_examples(records, codec, max_tokens, report)


def mismatched(found: Sequence[Judged]) -> list[dict[str, Any] | None]:
    """Returns an answer to another prompt for each judged answer; None where all have one prompt.

    The order of prompts that decides is that of their hashes, so it does not follow that of the file.
    """
    prompts = [_prompt_text(one) for one in found]
    order = sorted(range(len(found)), key=lambda index: (_digest(prompts[index]), index))
    largest = max(Counter(prompts).values(), default=0)
    if largest == len(found):
        return [None] * len(found)
    # Answers to one prompt stand together: a turn by the size of the largest group leads every answer out of its own group,
    # unless that group is more than half of all. Then some go on to the next prompt.
    answers: list[dict[str, Any] | None] = [None] * len(found)
    for place, index in enumerate(order):
        step = largest
        while prompts[order[(place + step) % len(order)]] == prompts[index]:
            step += 1
        answers[index] = found[order[(place + step) % len(order)]].answer
    return answers


def as_record(prompt: Sequence[dict[str, Any]], answer: dict[str, Any], one: Pair | Judged) -> Record:
    """Returns the conversation of which the last answer alone is learnt."""
    silent = [
        {**message, "weight": 0} if message.get("role") == "assistant" else message for message in prompt
    ]
    return Record((*silent, {**answer, "weight": 1}), one.tools, one.line, one.source)


def _rendered(one: Pair | Judged, answer: dict[str, Any], codec: Codec, max_tokens: int) -> Example:
    return render(as_record(one.prompt, answer, one), codec, max_tokens)


def _each(
    found: Iterable[_P], make: Callable[[_P], list[Example] | str], max_tokens: int, report: DataReport
) -> list[Example]:
    """Renders preferences and counts each as kept or dropped, and as cut where its end does not fit."""
    examples: list[Example] = []
    for one in found:
        try:
            made = make(one)
        except DeepwellError as error:
            report.drop("unrenderable", Shown(one.line, one.source, error.message))
            continue
        if isinstance(made, str):
            report.drop(made, Shown(one.line, one.source))
            continue
        report.keep()
        if lost := sum(example.cut for example in made):
            detail = f"{lost} tokens behind the first {max_tokens} are left off"
            report.shorten("longer than max_tokens", Shown(one.line, one.source, detail))
        examples += made
    return examples


def _load(
    config: PreferenceConfig,
    read: Callable[[Sequence[Path]], Iterator[_P | BadRecord]],
    make: Callable[[Sequence[_P], DataReport], list[Example]],
) -> Dataset:
    found, report = _read(config.data, read)
    held_report = report
    if isinstance(config.validation, list):
        held, held_report = _read(config.validation, read)
    else:
        share = config.validation
        held = [one for one in found if is_held_out(_prompt_text(one), share)]
        found = [one for one in found if not is_held_out(_prompt_text(one), share)]
    train = make(found, report)
    held_out = make(held, held_report)
    report.check()
    held_report.check()
    if not train:
        reason = next(iter(report.examples), "")
        said = {
            one: f": {report.examples[reason][0].said(one)}"[:300] if reason else "" for one in ("en", "zh")
        }
        raise InvalidRequest.of(
            "align_none_usable",
            param="data",
            read=report.read,
            first=said["en"],
            first_zh=said["zh"],
            line=_LINES[config.algorithm],
        )
    return Dataset(train, held_out, report, held_report, [])


def _read(
    paths: Sequence[Path], read: Callable[[Sequence[Path]], Iterator[_P | BadRecord]]
) -> tuple[list[_P], DataReport]:
    report = DataReport()
    found: list[_P] = []
    try:
        for one in report.reading(read(paths)):
            if isinstance(one, BadRecord):
                report.drop("unreadable", Shown.of(one))
            else:
                found.append(one)
    except OSError as error:
        raise _unreadable(error) from None
    return found, report


def _unreadable(error: OSError) -> InvalidRequest:
    return InvalidRequest.of("tune_file", path=error.filename, reason=error.strerror)


def _prompt_text(one: Pair | Judged) -> str:
    parts = [
        [message.get("role"), content_text(message), message.get("tool_calls")] for message in one.prompt
    ]
    return json.dumps(parts, ensure_ascii=False, sort_keys=True)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()

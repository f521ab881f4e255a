"""From files of conversations to examples, with an account of every record, and to the order in which steps see them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepwell.dialogue.text import Codec
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.tuning.data.records import BadRecord, Record, read_records
from deepwell.tuning.data.report import DataReport
from deepwell.tuning.data.report import Example as Shown
from deepwell.tuning.train.config import StepConfig, TuneConfig
from deepwell.tuning.train.examples import Example, render_all
from deepwell.tuning.train.packing import first_fit_decreasing, one_to_a_row

__all__ = [
    "Dataset",
    "file_hashes",
    "is_held_out",
    "load_dataset",
    "micro_batches",
    "read_examples",
    "step_order",
    "total_steps",
]


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples to train on and those held out, with the account of their records and the records that were held out."""

    train: list[Example]
    held_out: list[Example]
    report: DataReport
    held_out_report: DataReport
    held_out_records: list[Record]


def load_dataset(config: TuneConfig, codec: Codec, max_tokens: int) -> Dataset:
    """Reads and renders the files of a configuration.

    A held-out share is chosen by the hash of each record's text: it does not depend on the order of the file, and a text that
    occurs twice is never on both sides.

    Args:
        max_tokens: longest example.

    Raises:
        InvalidRequest: a file cannot be read, or no example is left to train on.
    """
    records, report = _read(config.data, config.format)
    held_report = report
    if isinstance(config.validation, list):
        held, held_report = _read(config.validation, config.format)
        trained = records
    else:
        held = [one for one in records if is_held_out(one.text, config.validation)]
        trained = [one for one in records if not is_held_out(one.text, config.validation)]
    train = read_examples(trained, codec, max_tokens, report)
    held_out = read_examples(held, codec, max_tokens, held_report)
    report.check()
    held_report.check()
    if not train:
        reason = next(iter(report.examples), "")
        first = f": {reason}, {report.examples[reason][0].detail}" if reason else ""
        raise InvalidRequest(
            f"none of {report.read} records can be trained on{first[:300]}",
            fix="run `deepwell data check` on the files",
        )
    return Dataset(train, held_out, report, held_report, held)


def _read(paths: Sequence[Path], kind: str) -> tuple[list[Record], DataReport]:
    report = DataReport()
    found: list[Record] = []
    try:
        for one in report.reading(read_records(paths, kind)):  # type: ignore[arg-type]
            if isinstance(one, BadRecord):
                report.drop(
                    "unreadable", Shown(one.line, one.source, f"{one.field}: {one.problem}".lstrip(": "))
                )
            else:
                found.append(one)
    except OSError as error:
        raise InvalidRequest(
            f"{error.filename} cannot be read: {error.strerror}", fix="name an existing file"
        ) from None
    return found, report


def read_examples(
    records: Sequence[Record], codec: Codec, max_tokens: int, report: DataReport
) -> list[Example]:
    """Renders records and counts each as kept or dropped, and as cut where its end does not fit."""
    examples: list[Example] = []
    for record in records:
        try:
            made = render_all(record, codec, max_tokens)
        except DeepwellError as error:
            report.drop("unrenderable", Shown(record.line, record.source, error.message))
            continue
        kept = [one for one in made if one.labelled]
        if not kept:
            detail = f"its answer begins behind {max_tokens} tokens"
            report.drop("no answer within max_tokens", Shown(record.line, record.source, detail))
            continue
        report.keep()
        if lost := sum(one.cut for one in made):
            detail = f"{lost} tokens behind the first {max_tokens} are left off"
            report.shorten("longer than max_tokens", Shown(record.line, record.source, detail))
        examples += kept
    return examples


def is_held_out(text: str, share: float) -> bool:
    """Tells whether the hash of a text puts it into the held-out share."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * (1 << 64)


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file by its path."""
    hashes: dict[str, str] = {}
    for path in paths:
        with path.open("rb") as file:
            hashes[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def step_order(examples: Sequence[Example], settings: StepConfig) -> Iterator[list[int]]:
    """Yields the examples of each step, without end. Every epoch has its own order, which the seed gives.

    A step takes whole examples up to `batch_tokens`, and at least one.
    """
    capacity = settings.batch_tokens
    assert isinstance(capacity, int), "the plan of a run has replaced auto"
    epoch = 0
    while True:
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(examples))
        step: list[int] = []
        used = 0
        for index in map(int, order):
            length = len(examples[index].token_ids)
            if step and used + length > capacity:
                yield step
                step, used = [], 0
            step.append(index)
            used += length
        yield step
        epoch += 1


def total_steps(examples: Sequence[Example], settings: StepConfig) -> int:
    """Returns the number of steps of a run: the one that was asked for, or that of its epochs, rounded up."""
    if settings.steps is not None:
        return settings.steps
    wanted = settings.epochs * len(examples)
    seen = steps = 0
    for step in step_order(examples, settings):
        seen += len(step)
        steps += 1
        if seen >= wanted:
            break
    return steps


def micro_batches(
    examples: Sequence[Example], chosen: Sequence[int], micro_tokens: int, *, packing: bool = True
) -> list[list[list[Example]]]:
    """Splits the examples of a step into batches of rows that are computed one after the other.

    With packing, a batch is one row of up to `micro_tokens`; without, rows of one example each, padded to the longest.
    """
    lengths = [len(examples[index].token_ids) for index in chosen]
    if packing:
        rows = first_fit_decreasing(lengths, max(micro_tokens, *lengths))
        return [[[examples[chosen[place]] for place in sorted(row)]] for row in rows]
    batches: list[list[list[Example]]] = []
    width = 0
    for (place,) in one_to_a_row(lengths):  # the longest first: the first row of a batch sets its width
        if not batches or (len(batches[-1]) + 1) * width > micro_tokens:
            batches.append([])
            width = lengths[place]
        batches[-1].append([examples[chosen[place]]])
    return batches

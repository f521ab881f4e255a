"""`deepwell data check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.data.options import (
    Against,
    Files,
    FormatOption,
    evaluation_set,
    print_outputs,
    print_report,
    reading,
    refuse_overwriting,
    removed_file,
)
from deepwell.cli.options import stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.tuning.data.check import Check, Renderer

__all__ = ["check"]

_SAMPLE_CHARACTERS = 1500


def check(
    files: Files,
    format: FormatOption = "auto",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model whose tokenizer and chat template count tokens: a name in the store, or a path; unset: not counted.",
            autocompletion=stored_models,
        ),
    ] = None,
    max_tokens: Annotated[
        int,
        typer.Option(min=1, help="Tokens that training takes of a record; counted where --model is given."),
    ] = 1024,
    language: Annotated[
        list[str] | None,
        typer.Option(
            help="Code of a wanted language, such as en or zh; repeatable. Unset: all.", metavar="CODE"
        ),
    ] = None,
    against: Against = None,
    min_words: Annotated[
        int, typer.Option(min=0, help="Words, or Chinese characters, that a record has at least.")
    ] = 3,
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the records that are kept, as JSON lines; OUTPUT.removed.jsonl gets the others."
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            help="Finding whose records are dropped instead of counted, such as garbled; repeatable.",
            metavar="FINDING",
        ),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Read training data and say what is wrong or doubtful in it: schema, roles, length, language, quality, a sample."""
    from deepwell.tuning.data.check import FINDINGS, Check, CheckOptions
    from deepwell.tuning.data.language import KNOWN_LANGUAGES
    from deepwell.tuning.data.quality import QualityLimits
    from deepwell.tuning.data.records import LineWriter, read_records, write_records

    with reported_errors(as_json=json):
        _require("data_no_finding", drop, FINDINGS)
        _require("data_no_language", language, KNOWN_LANGUAGES)
        removed = output and removed_file(output)
        refuse_overwriting([output, removed] if output and removed else [], files)
        renderer = _renderer(model) if model else None
        checked = Check(
            CheckOptions(
                limits=QualityLimits(min_words=min_words),
                renderer=renderer,
                max_tokens=max_tokens,
                languages=frozenset(language or ()),
                against=evaluation_set(against),
                drop=frozenset(drop or ()),
            )
        )
        with reading(say("data_reading"), files, shown=not json) as advance:
            if output is None or removed is None:
                for _ in checked.kept(read_records(files, format), advance):
                    pass
            else:
                with LineWriter(removed) as writer:
                    write_records(output, checked.kept(read_records(files, format), advance, writer.write))
        if json:
            write_json({**checked.to_json(), "sample": _sample(checked)})
        else:
            _print(checked, counts_tokens=renderer is not None)
            if output is not None:
                print_outputs(checked.report, output)
    if output is None and checked.report.dropped["unreadable"]:
        raise typer.Exit(1)


def _require(key: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    """Raises the error of this key for the first name that is not known."""
    from deepwell.errors import InvalidRequest
    from deepwell.messages import nearest

    for name in names or ():
        if name not in known:
            raise InvalidRequest.of(key, name=name, right=nearest(name, known) or ", ".join(known))


def _renderer(model: str) -> Renderer:
    from deepwell.dialogue.text import Codec
    from deepwell.models.store.store import ModelStore
    from deepwell.settings import Settings
    from deepwell.tuning.data.model import CodecRenderer

    return CodecRenderer(Codec.load(ModelStore(Settings.load().models_dir).resolve(model).path))


def _sample(checked: Check) -> str:
    from deepwell.tuning.data.records import content_text

    if checked.sample or checked.first is None:
        return checked.sample
    return "\n".join(f"{one['role']}: {content_text(one)}" for one in checked.first.messages)


def _print(checked: Check, *, counts_tokens: bool) -> None:
    out = console()
    print_report(checked.report)
    out.print()
    for key, counts in (
        ("data_formats", checked.formats),
        ("data_languages", checked.languages),
        ("data_labels", checked.labels),
    ):
        if counts:
            shown = ", ".join(f"{name} {count}" for name, count in counts.most_common(12))
            out.print(say(key, shown=shown), soft_wrap=True)
    if checked.first is None:
        return
    out.print(say("data_tokens" if counts_tokens else "data_characters", **checked.sizes()), soft_wrap=True)
    out.print()
    key = "data_sample_learnt" if checked.sample else "data_sample"
    out.print(say(key, line=checked.first.line, source=checked.first.source), soft_wrap=True)
    sample = _sample(checked)
    sample = sample.rstrip("\n")
    out.print(sample[:_SAMPLE_CHARACTERS] + ("…" if len(sample) > _SAMPLE_CHARACTERS else ""), soft_wrap=True)

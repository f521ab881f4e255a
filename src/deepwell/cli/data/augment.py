"""`deepwell data augment`: adds texts in other words to training data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json

if TYPE_CHECKING:
    from deepwell.tuning.data.augment.rewriters import Rewriter
    from deepwell.tuning.data.records import BadRecord, Record

__all__ = ["augment"]

_WORDS = {
    "empty": "no translation, or one without an end",
    "language": "in another language",
    "length": "too short or too long",
    "echo": "too similar to its source",
    "duplicate": "there already",
    "label": "another label now",
}


def augment(
    file: Annotated[
        Path, typer.Argument(help="File of records: JSON lines of texts or conversations.", metavar="FILE")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="File for the records with what is added; unset: FILE with .augmented.jsonl.",
            metavar="OUTPUT",
        ),
    ] = None,
    pivot: Annotated[
        Literal["auto", "chinese", "english", "spanish"],
        typer.Option(
            help="Language to translate into and back from; spanish needs Apertium; auto: chinese for English texts, "
            "english for Chinese ones."
        ),
    ] = "auto",
    paraphrase: Annotated[
        bool, typer.Option("--paraphrase", help="Let the model say each text in other words instead.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="Model that translates or paraphrases.", metavar="MODEL")
    ] = "qwen2.5-coder-0.5b",
    per_record: Annotated[int, typer.Option(min=1, max=20, help="Most new texts of a record.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of further texts of a record; the first is greedy.")] = 0,
    min_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Least length of a new text, as a share of its source.")
    ] = 0.5,
    max_ratio: Annotated[float, typer.Option(min=1, help="Greatest length, likewise.")] = 2.0,
    max_similarity: Annotated[
        float, typer.Option(min=0, max=1, help="Greatest similarity of its words to those of its source.")
    ] = 0.95,
    json: JsonFlag = False,
) -> None:
    """Add texts in other words: translated there and back, or paraphrased, and filtered."""
    with reported_errors(as_json=json):
        from deepwell.tuning.data.augment.augment import LEAST_LABELS
        from deepwell.tuning.data.augment.augment import augment as add
        from deepwell.tuning.data.augment.filters import Filters
        from deepwell.tuning.data.records import Record, read_records, write_records

        records = list(read_records([file]))
        kept = output or file.with_name(f"{file.stem}.augmented.jsonl")
        filters = Filters(min_ratio, max_ratio, max_similarity)
        with ExitStack() as stack:
            rewriter = _rewriter(stack, records, pivot, model, paraphrase=paraphrase, seed=seed)
            tell = stack.enter_context(_progress(shown=not json))
            found = add(records, rewriter, per_record=per_record, filters=filters, tell=tell)
        write_records(kept, found.records)
        account: dict[str, Any] = found.to_json() | {"rewriter": rewriter.name, "output": str(kept)}
        if json:
            write_json(account)
            return
        out = console()
        out.print(
            f"read {account['read']}, kept {account['kept']}, dropped {account['dropped']}; "
            f"{rewriter.name}: {found.accepted} of {found.tried} new texts added",
            soft_wrap=True,
        )
        rows = [[_WORDS[reason], str(count)] for reason, count in account["refused"].items() if count]
        if rows:
            print_table(["refused", "texts"], rows)
        out.print(f"distinctness {account['distinctness']:.2f}", end="")
        if found.label_agreement is not None and found.source_agreement is not None:
            out.print(
                f", label agreement {found.label_agreement:.2f} (of the sources {found.source_agreement:.2f})",
                end="",
            )
        elif any(isinstance(one, Record) and one.label is not None for one in records):
            out.print(f"; labels are not checked: that needs {LEAST_LABELS} of two classes", end="")
        out.print()
        out.print(str(kept), soft_wrap=True)


def _rewriter(
    stack: ExitStack,
    records: Sequence[Record | BadRecord],
    pivot: Literal["auto", "chinese", "english", "spanish"],
    model: str,
    *,
    paraphrase: bool,
    seed: int,
) -> Rewriter:
    """Returns what rewrites the texts. A model that it needs is closed with the stack."""
    from deepwell.errors import InvalidRequest
    from deepwell.tuning.data.augment.rewriters import BackTranslation, Paraphrase, language_of
    from deepwell.tuning.data.augment.translators import Apertium, ModelTranslator
    from deepwell.tuning.data.records import Record

    language = language_of([one.text for one in records if isinstance(one, Record)])
    if not paraphrase and pivot == "spanish" and language == "en":
        return BackTranslation(Apertium("en", "es"), "en", "es", varied=False)
    if not paraphrase and pivot not in ("auto", {"en": "chinese", "zh": "english"}[language]):
        raise InvalidRequest(
            f"--pivot {pivot} does not go with {'Chinese' if language == 'zh' else 'English'} texts",
            fix="use --pivot english" if language == "zh" else "use --pivot chinese or --pivot spanish",
        )
    from deepwell.llm import LLM

    opened = stack.enter_context(LLM(model))
    if paraphrase:
        return Paraphrase(opened, seed=seed)
    other = "zh" if language == "en" else "en"
    return BackTranslation(ModelTranslator(opened), language, other, seed=seed)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Any]:
    """A bar that shows how many rewritings are made, and the time left, on a terminal."""
    err = console(stderr=True)
    if not (shown and err.is_terminal):
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("rewriting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

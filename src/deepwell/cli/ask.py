"""`deepwell ask`: one question, one answer."""

from __future__ import annotations

import io
import os
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import (
    TEMPERATURE,
    ApiKeyOption,
    ModelOption,
    ServerPort,
    Speculation,
    Url,
)
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.process.calls import SINGLE_TENANT

if TYPE_CHECKING:
    from deepwell.cli.answers import Asked
    from deepwell.settings import Settings

__all__ = ["answer_once", "register"]

_LOOK = 4000  # characters at the end of a question that tell its language
_EXIT_UNANSWERED = 3  # no query of --data could be run
_LONG = 20_000  # characters of a text that takes seconds to choose from

Document = Annotated[
    Path | None,
    typer.Option(
        help="Book or other document to answer over, however long: txt, md, pdf and what knowledge bases read.",
    ),
]
MapReduce = Annotated[
    bool,
    typer.Option(
        "--map-reduce",
        help="Read all of --file in blocks of 512 tokens, and answer from notes of every block: for summaries.",
    ),
]
KnowledgeBase = Annotated[
    str | None,
    typer.Option(
        help="Knowledge base on this machine to answer from, with citations; the model is loaded for it.",
        metavar="NAME",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="CSV or SQLite file, or a folder of them, to answer from: the model writes one query, which only reads.",
        metavar="PATH",
    ),
]
Chart = Annotated[
    Path | None,
    typer.Option(
        help="File for a bar chart of the rows that --data finds, such as chart.svg or chart.png.",
        metavar="FILE",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(ask)


def ask(
    question: Annotated[
        str | None,
        typer.Argument(
            help="Question to ask. Piped text is put behind it; - or nothing takes the piped text alone."
        ),
    ] = None,
    model: ModelOption = None,
    system: Annotated[str | None, typer.Option(help="System message in front of the question.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = TEMPERATURE,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampling, which makes a drawn answer repeatable.")
    ] = None,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    speculation: Speculation = None,
    file: Document = None,
    map_reduce: MapReduce = False,
    knowledge: KnowledgeBase = None,
    data: Data = None,
    chart: Chart = None,
    json: JsonFlag = False,
) -> None:
    """Ask one question; the answer streams to standard output.

    A running `deepwell serve` answers with its own model, or with the one that --model names; without one the model is loaded
    for this question. With --file, the model reads what the question needs of a document that is longer than its context, and
    a line on standard error says what became of its tokens; with --map-reduce it reads all of it, block by block, which takes
    minutes for a book, and answers what no single sentence does. With --knowledge, every sentence of the answer is checked
    against the passage that it cites.

    With --data, the answer is the query that the model wrote and the rows that it finds. The query is checked and runs in a
    sandbox. Read it: a wrong query can find plausible rows. The exit code is 3 if no query could be run.
    """
    with reported_errors(as_json=json):
        from deepwell.cli.answers import Asked, policy_of
        from deepwell.errors import InvalidRequest
        from deepwell.settings import Settings

        text = joined("" if question in (None, "-") else question or "", _piped())
        if not text:
            raise InvalidRequest.of("question_empty")
        settings = Settings.load(model=model, url=url, port=port, api_key=api_key, speculation=speculation)
        is_pinned = url is not None or port is not None
        if data is not None or chart is not None:
            others = (file, knowledge, system, max_tokens, seed)
            is_plain = all(one is None for one in others) and not map_reduce and temperature == TEMPERATURE
            _answer_from_tables(settings, data, text, chart, is_plain=is_plain, as_json=json)
            return
        if knowledge is not None:
            _answer_from(settings, knowledge, system, text, max_tokens, is_pinned=is_pinned, as_json=json)
            return
        if map_reduce:
            _answer_over(settings, file, system, text, max_tokens, is_pinned=is_pinned, as_json=json)
            return
        messages = [{"role": "system", "content": system}] if system else []
        policy = policy_of(settings, None)
        if file is not None:
            policy = policy_of(settings, "auto")
            text = f"{_read(file)}\n\n{text}"
        asked = Asked(
            [*messages, {"role": "user", "content": text}], max_tokens, temperature, seed, policy=policy
        )
        answer_once(settings, asked, as_json=json)


def _answer_from(
    settings: Settings,
    knowledge: str,
    system: str | None,
    text: str,
    max_tokens: int | None,
    *,
    is_pinned: bool,
    as_json: bool,
) -> None:
    """Answers from a knowledge base of this machine.

    Raises:
        InvalidRequest: a server is named.
    """
    from deepwell.cli.knowledge.answering import answer_from
    from deepwell.errors import InvalidRequest

    if is_pinned:
        raise InvalidRequest.of("knowledge_is_local")
    before = [{"role": "system", "content": system}] if system else []
    messages = [*before, {"role": "user", "content": text}]
    answer_from(settings, knowledge, messages, max_tokens=max_tokens, as_json=as_json)


def _answer_from_tables(
    settings: Settings, data: Path | None, text: str, chart: Path | None, *, is_plain: bool, as_json: bool
) -> None:
    """Answers from tables.

    Raises:
        InvalidRequest: there are no tables, or options are given that have no meaning beside them.
    """
    from deepwell.cli.agent.tables import answer_from_tables
    from deepwell.errors import InvalidRequest

    if data is None:
        raise InvalidRequest.of("chart_without_data")
    if not is_plain:
        raise InvalidRequest.of("data_stands_alone")
    if not answer_from_tables(settings, data, text, chart, as_json=as_json):
        raise typer.Exit(_EXIT_UNANSWERED)


def _answer_over(
    settings: Settings,
    file: Path | None,
    system: str | None,
    text: str,
    max_tokens: int | None,
    *,
    is_pinned: bool,
    as_json: bool,
) -> None:
    """Answers from notes of all blocks of a document.

    Raises:
        InvalidRequest: no document is given, or a server is named.
    """
    from deepwell.cli.knowledge.answering import answer_over
    from deepwell.errors import InvalidRequest

    if file is None:
        raise InvalidRequest.of("map_reduce_without_file")
    if is_pinned:
        raise InvalidRequest.of("map_reduce_is_local")
    question = f"{system.strip()}\n\n{text}" if system else text
    answer_over(settings, _read(file), question, max_tokens=max_tokens, as_json=as_json)


def _read(file: Path) -> str:
    """Returns the text of a document.

    Raises:
        OSError: there is no such file.
        UnsupportedFile, InvalidFile: its text cannot be read.
        InvalidRequest: there is no text in it.
    """
    from deepwell.errors import InvalidRequest
    from deepwell.knowledge.parse.process import ParseProcess

    with file.open("rb"):
        pass
    parser = ParseProcess()
    try:
        text = parser.parse_blocking(SINGLE_TENANT, file, file.name).text.strip()
    finally:
        parser.close_blocking()
    if not text:
        raise InvalidRequest.of("file_without_text", file=file)
    return text


def joined(question: str, piped: str) -> str:
    """Returns the question with the piped text behind it."""
    return "\n\n".join(part for part in (question.strip(), piped.strip()) if part)


def _piped() -> str:
    """Returns what standard input holds, if it is a pipe or a file: nothing else is sure to end."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, ValueError, io.UnsupportedOperation):  # it is no file of the system
        return "" if sys.stdin is None else sys.stdin.read()
    except OSError:  # it is closed
        return ""
    return sys.stdin.read() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def answer_once(settings: Settings, asked: Asked, *, as_json: bool) -> None:
    """Streams one answer to standard output."""
    from deepwell.cli.answers import context_note, cut_note, last_of, open_answers, warn_of_language
    from deepwell.cli.progress import waiting
    from deepwell.messages import say

    question = asked.messages[-1]["content"]
    with closing(open_answers(settings)) as answers:
        if not as_json:
            warn_of_language(answers, question[-_LOOK:], "ask --model")
        answer = ""
        last = None
        is_fitted = asked.policy not in (None, "strict") and len(question) > _LONG
        with (
            waiting(say("long_text_read"), shown=is_fitted and not as_json) as found,
            closing(answers.stream(asked)) as parts,
        ):
            for part in parts:
                found()
                answer += part.text
                last = part
                if not as_json:
                    sys.stdout.write(part.text)
                    sys.stdout.flush()
        if as_json:
            write_json({"model": answers.model, "where": answers.where, "answer": answer, **last_of(last)})
        else:
            sys.stdout.write("\n")
            for note in (context_note(last), cut_note(last)):
                if note:
                    console(stderr=True).print(note, style="yellow", soft_wrap=True)

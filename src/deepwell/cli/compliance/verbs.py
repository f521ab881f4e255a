"""`deepwell compliance check|answer`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.compliance import options
from deepwell.cli.options import ApiKeyOption, ModelOption, Url
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.safety.compliance.checks import Pack
    from deepwell.safety.compliance.context import Ask, Banks, Context, Progress
    from deepwell.safety.compliance.report import Report
    from deepwell.settings import Settings
    from deepwell.storage.database import Database

__all__ = ["answer", "check"]


_BANKS = ("generation", "refuse", "answer")


def check(
    pack: options.Packs = None,
    guard: options.Guard = None,
    generation: options.GenerationBank = None,
    refuse: options.RefuseBank = None,
    answers: options.AnswerBank = None,
    model: ModelOption = None,
    url: Url = None,
    api_key: ApiKeyOption = None,
    samples: options.Samples = None,
    max_tokens: options.MaxTokens = 300,
    sheets: options.Sheets = None,
    judged: options.Judged = None,
    output: options.Out = None,
    json: JsonFlag = False,
) -> None:
    """Run the checks with their evidence, and list the questions to people. The exit code is 1 unless every check passes.

    Nothing is served, and the database is only read. A sampled run of the pack cn takes the banks and a model: one that is
    loaded here (--model), or a running server's (--url).
    """
    with reported_errors(as_json=json):
        from deepwell.messages import language
        from deepwell.safety.compliance.making import make_report
        from deepwell.safety.compliance.packs import PACKS, load
        from deepwell.safety.compliance.report import as_json, as_markdown
        from deepwell.settings import Settings

        if output is not None and output.exists():
            raise InvalidRequest(f"{output} exists already", fix="name a new file")
        names = list(dict.fromkeys(pack or PACKS))
        for name in names:
            load(name)
        settings = Settings.load(guard=guard, model=model, url=url, api_key=api_key)
        given = {"generation": generation, "refuse": refuse, "answer": answers}
        banks = _banks(given, judged)
        with ExitStack() as stack:
            progress = stack.enter_context(_progress(shown=not json))
            context, database = _context(settings, banks, progress, stack)
            context = replace(context, samples=samples, sheet_dir=sheets)
            if model is not None or url is not None:
                context = replace(context, ask=_asker(settings, max_tokens, stack), guarded=url is not None)
            report = make_report(names, context, database)
        text = as_markdown(report, language())
        if output is not None:
            output.write_text(text, encoding="utf-8")
        if json:
            write_json(as_json(report))
        else:
            console().print(text if output is None else _summary(report, output), soft_wrap=True, end="")
        if not report.holds:
            raise typer.Exit(1)


def answer(
    question: Annotated[str, typer.Argument(help="Question, by its id in the report.", metavar="QUESTION")],
    text: Annotated[str, typer.Argument(help="Answer to keep.", metavar="ANSWER")],
    by: Annotated[str, typer.Option(help="Name of the person who answers.", metavar="NAME")],
    evidence: Annotated[
        str, typer.Option(help="Text or address of what proves the answer.", metavar="TEXT")
    ] = "",
    pack: Annotated[
        str | None,
        typer.Option(help="Pack of the question, where several have one of this id.", metavar="PACK"),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Keep a person's answer to a question, with name and day. Earlier answers stay; the newest counts for 12 months."""
    with reported_errors(as_json=json):
        from deepwell.settings import Settings
        from deepwell.storage.database import LOCAL, Database
        from deepwell.storage.safety.answers import AnswerStore

        if not text.strip() or not by.strip():
            raise InvalidRequest(
                "the answer or the name is empty", fix='write: deepwell compliance answer ID "..." --by NAME'
            )
        if len(by) > 256 or len(text) > 20_000 or len(evidence) > 20_000:
            raise InvalidRequest(
                "the answer or the name is too long",
                fix="keep names to 256 characters and answers to 20,000; name a document with --evidence",
            )
        found = _pack_of(question, pack)
        database = Database.of(Settings.load())
        try:
            store = AnswerStore(database)
            kept = asyncio.run(
                store.put(LOCAL, found.name, question, text, evidence=evidence, answered_by=by)
            )
        finally:
            database.close()
        day = datetime.fromtimestamp(kept.answered_at, UTC).date().isoformat()
        if json:
            write_json({"pack": found.name, "question": question, "answered_by": by, "day": day})
        else:
            console().print(f"{found.name} {question}: {by}, {day}", soft_wrap=True)


def _pack_of(question: str, name: str | None) -> Pack:
    """Returns the pack that has the question."""
    from deepwell.messages import nearest
    from deepwell.safety.compliance.packs import PACKS, load

    if name is not None:
        pack = load(name)
        pack.question(question)
        return pack
    packs = [load(one) for one in PACKS]
    ids = {check.id: one for one in packs for check in one.checks if check.kind == "question"}
    found = [one for one in packs if any(c.id == question and c.kind == "question" for c in one.checks)]
    if len(found) > 1:
        raise InvalidRequest(f"several packs have a question {question!r}", fix="name one with --pack")
    if not found:
        right = nearest(question, ids)
        raise InvalidRequest(
            f"there is no question {question!r}",
            fix=f"did you mean {right}?" if right else "`deepwell compliance check` lists all",
        )
    return found[0]


def _banks(given: dict[str, Path | None], judged: Path | None) -> Banks:
    from deepwell.safety.compliance.context import Banks

    for path in given.values():
        if path is not None and not path.is_file():
            raise InvalidRequest.of("path_missing", path=path, folder=path.parent, reason="")
    filled: dict[str, Path] = {}
    if judged is not None:
        filled = {name: judged / f"{name}.csv" for name in _BANKS if (judged / f"{name}.csv").is_file()}
        if not filled:
            raise InvalidRequest(
                f"{judged} holds none of {', '.join(f'{name}.csv' for name in _BANKS)}",
                fix="name the folder that --sheets wrote",
            )
    return Banks(given["generation"], given["refuse"], given["answer"], filled)


def _context(
    settings: Settings, banks: Banks, progress: Progress, stack: ExitStack
) -> tuple[Context, Database]:
    from deepwell.safety.compliance.context import Context
    from deepwell.safety.guard import Guard
    from deepwell.safety.policy import Policy
    from deepwell.safety.terms.pull import lists_folder
    from deepwell.storage.database import Database
    from deepwell.storage.safety.anchors import Anchors
    from deepwell.storage.safety.audit import AuditStore

    policy = None if settings.guard is None else Policy.load(settings.guard)
    guard = None if policy is None else Guard.of(policy, lists_folder(settings.models_dir))
    database = Database.of(settings)
    stack.callback(database.close)
    trails = AuditStore(database, Anchors.of(settings))
    return Context(settings, policy, guard, trails, banks, progress=progress), database


def _asker(settings: Settings, max_tokens: int, stack: ExitStack) -> Ask:
    from deepwell.cli.compliance.asking import local_model, remote_server

    return (local_model if settings.url is None else remote_server)(settings, max_tokens, stack)


@contextmanager
def _progress(*, shown: bool) -> Iterator[Progress]:
    """Shows a bar for each thing that is being done."""
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    err = console(stderr=True)
    with Bars(console=err, transient=True, disable=not (shown and err.is_terminal)) as bars:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield told


def _summary(report: Report, path: Path) -> str:
    lines = [
        f"{one.pack.name}: {', '.join(f'{key} {count}' for key, count in sorted(one.counts().items()))}; "
        f"questions {len(one.questions)}, due {sum(each.due for each in one.questions)}"
        for one in report.packs
    ]
    return "\n".join([*lines, f"{path}"]) + "\n"

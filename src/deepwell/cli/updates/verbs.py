"""`deepwell models updates`: ask the sources of stored models for new revisions, and say what changed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import ModelsDir, stored_models
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.cli.progress import counted
from deepwell.messages import language, say

if TYPE_CHECKING:
    from deepwell.models.revisions.news import FileChange, ModelNews, Report, SourceNews

__all__ = ["register"]

_SHORT = 12  # characters of a commit in the table


def register(models: typer.Typer) -> None:
    """Add the verb to `deepwell models`."""
    models.command()(updates)


def updates(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names of models in the store; without one, all of them.",
            metavar="[NAME]...",
            autocompletion=stored_models,
        ),
    ] = None,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file of your own.", metavar="FILE")] = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Ask the sources of stored models for new revisions, and say what changed; nothing is downloaded or replaced."""
    with reported_errors(as_json=json):
        from deepwell.errors import InvalidModelFile
        from deepwell.models.revisions.look import look_for_updates
        from deepwell.models.revisions.news import Report
        from deepwell.models.store.catalog import read_catalog
        from deepwell.models.store.store import ModelStore
        from deepwell.settings import Settings

        settings = Settings.load(models_dir=models_dir)
        store = ModelStore(settings.models_dir)
        with counted("sources", shown=not json) as progress:
            report = look_for_updates(
                store,
                names or (),
                catalog=read_catalog(catalog) if catalog else None,
                offline=settings.offline,
                progress=progress,
            )
        if report.models:
            try:
                before = Report.read(store.root) if names else None
            except InvalidModelFile:  # the new report takes the place of a damaged one
                before = None
            (report.joined(before) if before else report).write(store.root)
        if json:
            write_json(report.to_json())
        else:
            _print(report)


def _print(report: Report) -> None:
    out = console()
    if not report.models:
        out.print(say("models_none"), soft_wrap=True)
        return
    print_table(say("updates_columns").split("|"), [_row(model) for model in report.models])
    told = [source for model in report.models for source in model.sources]
    for model in report.models:
        for source in model.sources:
            if source.state == "new":
                _print_new(model.name, source)
    if all(source.state == "unasked" for source in told):
        out.print(f"\n{say('updates_none_asked')}", soft_wrap=True)
    elif not any(source.state == "new" for source in told):
        out.print(f"\n{say('updates_nothing')}", soft_wrap=True)
    _print_unasked(report)


def _row(model: ModelNews) -> tuple[str, str, str, str, str]:
    shown = model.newest or next((one for one in model.sources if one.state == model.state), model.sources[0])
    date = (shown.changed or "-")[:10]
    words = (model.name, say(f"updates_{model.state}"), _short(shown.before), _short(shown.now), date)
    return tuple(word or "-" for word in words)  # type: ignore[return-value]


def _short(revision: str) -> str:
    return revision[:_SHORT] if len(revision) > 20 else revision


def _print_new(name: str, source: SourceNews) -> None:
    lines = [(say("updates_revision"), f"{source.before or '?'} -> {source.now or '?'}")]
    lines += [(say("updates_file"), _file_words(file)) for file in source.files]
    for key, change in (("updates_licence", source.licence), ("updates_template", source.template)):
        if change is not None:
            lines.append((say(key), f"{change.before or '-'} -> {change.now or '-'}"))
    if source.unsaid:
        lines.append(
            (say("updates_unsaid"), ", ".join(say(f"updates_word_{word}") for word in source.unsaid))
        )
    if source.fetch:
        version = "".join(one if one.isalnum() or one in "._-" else "" for one in _short(source.now))
        lines.append(
            (say("updates_fetch"), f"deepwell pull '{source.fetch}' --name {name}-{version or 'new'}")
        )
    out = console()
    out.print(f"\n{say('updates_of', name=name, source=source.source)}", soft_wrap=True)
    for label, words in lines:
        out.print(f"  {label}: {words}", soft_wrap=True)


def _file_words(file: FileChange) -> str:
    words = [file.name, say(f"updates_{file.kind}")]
    before, now = (_count(file.size_before), _count(file.size_now))
    words.append(say("updates_bytes", before=before, now=now))
    if file.hash_before or file.hash_now:
        words.append(f"{file.hash_before or '-'} -> {file.hash_now or '-'}")
    return "  ".join(words)


def _count(nbytes: int | None) -> str:
    return "-" if nbytes is None else str(nbytes)


def _print_unasked(report: Report) -> None:
    """Prints the sources that did not answer, those of one reason together."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for model in report.models:
        for source in model.sources:
            if source.state == "unasked":
                of_reason = reasons.setdefault(source.said(language()), {})
                of_reason.setdefault(source.source.partition("#")[0] or model.name, []).append(model.name)
    if not reasons:
        return
    out = console()
    out.print(f"\n{say('updates_not_asked')}", soft_wrap=True)
    for (reason, fix), sources in reasons.items():
        for text, names in sources.items():
            line = say("updates_for", source=text, names=", ".join(dict.fromkeys(names)), reason=reason)
            out.print(f"  {line}", soft_wrap=True)
        if fix:
            out.print(f"    {fix}", soft_wrap=True)

"""`deepwell doctor`: what this installation can do here, what is missing, and the command that brings it."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.keys import has_stored_key
from deepwell.cli.options import Context, KvDtype, KvTokens, ModelOption, ModelsDir, Precision, Threads
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.usage import Verbs
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    from rich.table import Table

    from deepwell.settings import Settings

__all__ = ["examine", "register"]

_PACKAGES = ("numpy", "tokenizers", "fastapi", "uvicorn", "pydantic", "prometheus-client")
_EXTRAS = {
    "knowledge": (
        "tantivy",
        "usearch",
        "pypdfium2",
        "docx",
        "openpyxl",
        "pptx",
        "selectolax",
        "feedparser",
    ),
    "ocr": ("rapidocr_onnxruntime",),
    "tune": ("torch", "transformers", "peft"),
}


def register(app: typer.Typer) -> None:
    """Add the verb, and under it the one that looks at outputs."""
    from deepwell.cli.doctor_sampling import sampling

    group = typer.Typer(
        cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
    )
    group.callback()(doctor)
    group.command()(sampling)
    app.add_typer(group, name="doctor")


def doctor(
    context_: typer.Context,
    model: ModelOption = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to check, for a running server or for one to start; unset: 8000."),
    ] = None,
    precision: Precision = None,
    context: Context = None,
    kv_dtype: KvDtype = None,
    kv_tokens: KvTokens = None,
    threads: Threads = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Show kernels, threads, memory plan, port, versions and settings; exit code 1 if something must be fixed."""
    if context_.invoked_subcommand is not None:
        return
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        settings = Settings.load(
            model=model,
            port=port,
            precision=precision,
            context=context,
            kv_dtype=kv_dtype,
            kv_tokens=kv_tokens,
            threads=threads,
            models_dir=models_dir,
        )
        report = examine(settings)
        if json:
            write_json(report)
        else:
            _print(report)
    if report["problems"]:
        raise typer.Exit(1)


@dataclass(frozen=True, slots=True)
class _Problem:
    message: str
    fix: str


def examine(settings: Settings) -> dict[str, Any]:
    """Everything `doctor` shows, as JSON."""
    problems: list[_Problem] = []
    report = {
        "versions": _versions(),
        "kernels": _kernels(settings, problems),
        "threads": _threads(settings),
        "model": _model(settings, problems),
        "store": _store(settings),
        "server": _server(settings, problems),
        "guard": _guard(settings, problems),
        "extras": _extras(),
        "settings": _settings(settings),
    }
    return report | {"problems": [{"message": problem.message, "fix": problem.fix} for problem in problems]}


def _versions() -> dict[str, str]:
    found = {
        "deepwell": deepwell_version(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    return found | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _kernels(settings: Settings, problems: list[_Problem]) -> dict[str, Any]:
    from deepwell.engine.backends import native
    from deepwell.errors import MissingDependency

    try:
        native.select_backend("native", settings.isa)
    except MissingDependency as error:
        problems.append(_Problem(error.message, error.fix))
        if not native.is_available():
            return {"backend": "reference", "reason": error.message, "isa": "numpy", "available": []}
    return {"backend": "native", "reason": "", "isa": native.isa(), "available": native.available_isas()}


def _threads(settings: Settings) -> dict[str, Any]:
    from deepwell.engine.machine import usable_cpus

    usable = usable_cpus()
    return {"used": settings.threads or usable, "usable": usable, "machine": os.cpu_count()}


def _model(settings: Settings, problems: list[_Problem]) -> dict[str, Any]:
    from deepwell.dialogue.opening import plan_model
    from deepwell.errors import DeepwellError

    try:
        planned = plan_model(settings)
    except DeepwellError as error:
        problems.append(_Problem(error.message, error.fix))
        return {"name": settings.model, "plan": []}
    return {
        "name": planned.name,
        "path": str(planned.path),
        "plan": planned.memory.lines(),
        "sampling": planned.defaults.shown(),
    }


def _store(settings: Settings) -> dict[str, Any]:
    folder = settings.models_dir
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return {"folder": str(folder), "models": [name for name in found if not name.startswith(".")]}


def _server(settings: Settings, problems: list[_Problem]) -> dict[str, Any]:
    from deepwell.cli.servers import client_key, examine_server
    from deepwell.errors import DeepwellError
    from deepwell.server.http.listen import bind, local_url, url_of

    url = local_url(settings.host, settings.port)
    try:
        settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
        with bind(settings.host, settings.port) as listener:
            return {"url": url_of(listener), "state": "free"}
    except DeepwellError as error:
        found = examine_server(url, client_key(settings))
        if not found.is_deepwell:
            problems.append(_Problem(error.message, error.fix))
            return {"url": url, "state": error.message}
        if not found.is_ready:
            problems.append(_Problem(f"the server at {url} takes no requests: {found.detail}", "see its log"))
        served = ", ".join(found.models) or "a model, and asks for an API key to say which"
        return {"url": url, "state": f"a running server serves {served}: {found.detail}"}


def _guard(settings: Settings, problems: list[_Problem]) -> dict[str, Any]:
    """The policy of the setting `guard`, and the lists of terms that it names."""
    if settings.guard is None:
        return {"policy": "off", "lists": {}}
    from deepwell.errors import DeepwellError
    from deepwell.safety.policy import Policy
    from deepwell.safety.terms.lists import read_list
    from deepwell.safety.terms.pull import lists_folder

    lists: dict[str, str] = {}
    try:
        policy = Policy.load(settings.guard)
    except DeepwellError as error:
        problems.append(_Problem(error.message, error.fix))
        return {"policy": settings.guard, "lists": lists}
    for name in policy.terms:
        try:
            lists[name] = f"{len(read_list(lists_folder(settings.models_dir), name).terms):,} terms"
        except DeepwellError as error:
            problems.append(_Problem(error.message, error.fix))
            lists[name] = "not here"
    return {"policy": policy.name, "hash": policy.hash, "lists": lists}


def _extras() -> dict[str, str]:
    """Extras that are missing are no problem: each says the command that brings it."""
    states: dict[str, str] = {}
    for extra, modules in _EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        states[extra] = (
            f"missing {', '.join(missing)}: {sys.executable} -m pip install -e '.[{extra}]' in the checkout"
            if missing
            else "installed"
        )
    return states


def _settings(settings: Settings) -> dict[str, dict[str, Any]]:
    origins = settings.origins()
    values = settings.model_dump(mode="json")  # secrets come out as asterisks
    return {name: {"value": values[name], "origin": origins[name]} for name in values}


def _print(report: dict[str, Any]) -> None:
    out = console()
    kernels, threads, model = report["kernels"], report["threads"], report["model"]
    versions = report["versions"]
    table = _grid()
    table.add_row("deepwell", f"{versions['deepwell']}, Python {versions['python']}, {versions['system']}")
    table.add_row("packages", ", ".join(f"{name} {versions[name]}" for name in _PACKAGES))
    available = ", ".join(kernels["available"]) or "none"
    table.add_row("kernels", f"{kernels['isa']} in use ({kernels['backend']}); available: {available}")
    table.add_row(
        "threads", f"{threads['used']} used, {threads['usable']} usable, {threads['machine']} in the machine"
    )
    table.add_row("model", f"{model['name']}  {model.get('path', 'not usable yet')}")
    for line in model["plan"]:
        table.add_row("", line)
    if sampling := model.get("sampling"):
        drawn = ", ".join(f"{name} {value:g}" for name, value in sampling.items() if name != "source")
        table.add_row("sampling", f"{drawn}, where a request does not say ({sampling['source']})")
    table.add_row("store", f"{report['store']['folder']}: {', '.join(report['store']['models']) or 'empty'}")
    table.add_row("server", f"{report['server']['url']}  {report['server']['state']}")
    lists = ", ".join(f"{name} ({state})" for name, state in report["guard"]["lists"].items())
    table.add_row("guard", f"{report['guard']['policy']}{'  lists: ' if lists else ''}{lists}")
    for extra, state in report["extras"].items():
        table.add_row(f"extra {extra}", state)
    out.print(table)
    out.print()
    settings = _grid()
    for name, entry in report["settings"].items():
        value = entry["value"]
        settings.add_row(name, "unset" if value is None else str(value), entry["origin"])
    out.print(settings)
    out.print()
    for problem in report["problems"]:
        out.print(f"problem: {problem['message']}", style="bold red", soft_wrap=True)
        out.print(f"fix:     {problem['fix']}", soft_wrap=True)
    if not report["problems"]:
        out.print("Everything that is needed is here.", style="green")


def _grid() -> Table:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")  # a path is worth nothing with its end cut off
    return grid

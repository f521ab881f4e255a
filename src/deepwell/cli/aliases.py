"""`deepwell run`, `list`, `ps`, `stop`, `show` and `rm`: the verbs that users of ollama type.

Only `ps` and `stop` are verbs of their own. The others are names for `ask` and `chat`, and for verbs of `models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from deepwell.cli.models import list_models, remove, show
from deepwell.cli.options import (
    TEMPERATURE,
    ApiKeyOption,
    ServerPort,
    Speculation,
    Url,
    stored_models,
)
from deepwell.cli.output import JsonFlag, console, print_table, reported_errors, write_json
from deepwell.messages import say

__all__ = ["register"]

PANEL = "As in ollama"


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command(rich_help_panel=PANEL)(run)
    app.command("list", rich_help_panel=PANEL, help="Same as `deepwell models list`.")(list_models)
    app.command(rich_help_panel=PANEL)(ps)
    app.command(rich_help_panel=PANEL)(stop)
    app.command("show", rich_help_panel=PANEL, help="Same as `deepwell models show`.")(show)
    app.command("rm", rich_help_panel=PANEL, help="Same as `deepwell models remove`.")(remove)


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="Model to talk with: a name in the store or the catalog, or a path.",
            metavar="MODEL",
            autocompletion=stored_models,
        ),
    ],
    question: Annotated[
        str | None, typer.Argument(help="Question to ask; without one, a conversation begins.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message of the conversation.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0 always takes the likeliest token.")
    ] = TEMPERATURE,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    speculation: Speculation = None,
    json: JsonFlag = False,
) -> None:
    """Talk with a model: `deepwell ask` with a question, `deepwell chat` without. A model of the catalog is pulled first."""
    from deepwell.cli.ask import ask
    from deepwell.cli.chat import chat

    with reported_errors(as_json=json):
        _pull_if_missing(model, url=url, as_json=json)
    if question is None:
        chat(model, system, max_tokens, temperature, url, port, api_key, speculation, json)
    else:
        ask(
            question, model, system, max_tokens, temperature, None, url, port, api_key, speculation, json=json
        )


def _pull_if_missing(model: str, *, url: str | None, as_json: bool) -> None:
    """Pulls a model of the catalog that is not in the store, unless a server serves it."""
    from deepwell.cli.pull import pull
    from deepwell.cli.servers import client_key, examine_server, server_url
    from deepwell.models.store.catalog import shipped_catalog
    from deepwell.settings import Settings

    settings = Settings.load(url=url)
    if model not in shipped_catalog() or (settings.models_dir / model / "manifest.json").is_file():
        return
    if model in examine_server(server_url(settings), client_key(settings)).models:
        return
    pull(model, json=as_json)


def stop(
    model: Annotated[
        str, typer.Argument(help="Name of a model that a server loaded on demand.", metavar="MODEL")
    ],
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Unload a model that a running server loaded on demand; the next request for it loads it again."""
    with reported_errors(as_json=json):
        from deepwell.cli.servers import client_key, server_url, unload
        from deepwell.settings import Settings

        settings = Settings.load(url=url, port=port, api_key=api_key)
        unload(server_url(settings), model, client_key(settings))
        if json:
            write_json({"unloaded": model})
        else:
            console().print(say("model_unloaded", name=model), soft_wrap=True)


def _with_state(name: str, states: Mapping[str, str]) -> str:
    state = states.get(name)
    return f"{name} ({state.replace('_', ' ')})" if state else name


def ps(url: Url = None, api_key: ApiKeyOption = None, json: JsonFlag = False) -> None:
    """List the Deepwell servers that run on this machine, with their models."""
    with reported_errors(as_json=json):
        from dataclasses import asdict

        from deepwell.cli.servers import running_servers
        from deepwell.settings import Settings

        servers = running_servers(Settings.load(url=url, api_key=api_key))
        if json:
            write_json({"servers": [asdict(server) for server in servers]})
            return
        if not servers:
            console().print(say("servers_none"), soft_wrap=True)
            return
        rows = [
            (
                server.url,
                ", ".join(_with_state(name, server.states) for name in server.models) or "?",
                say("server_keyed") if server.state == "keyed" else server.detail,
                str(server.pid or "-"),
            )
            for server in servers
        ]
        columns = say("servers_columns").split("|")
        print_table(columns, rows, folded=(columns[2],))

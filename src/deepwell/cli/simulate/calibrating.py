"""`deepwell simulate calibrate`: measures a replica, and writes its profile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.options import ApiKeyOption, ModelOption, ServerPort, Url, stored_models
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepwell.fleet.simulate.calibration.measure import Effort
    from deepwell.fleet.simulate.profile import Profile
    from deepwell.settings import Settings

__all__ = ["calibrate"]


def calibrate(
    profile: Annotated[
        Path, typer.Argument(metavar="PROFILE", help="JSON file to write, such as profile.json.")
    ],
    load: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to load into this process and measure without a server; unset: a running server is measured.",
            autocompletion=stored_models,
        ),
    ] = None,
    model: ModelOption = None,
    url: Url = None,
    port: ServerPort = None,
    api_key: ApiKeyOption = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=50, help="Measurements of each figure; their median counts.")
    ] = 3,
    most_batch: Annotated[
        int, typer.Option(min=1, max=64, help="Largest number of answers side by side.")
    ] = 64,
    prompt_tokens: Annotated[
        int,
        typer.Option(
            min=1, max=100_000, help="Length of the prompts beside which answers are measured, in tokens."
        ),
    ] = 32,
    longest_prompt: Annotated[
        int, typer.Option(min=64, max=100_000, help="Longest prompt to measure, in tokens.")
    ] = 1024,
    answer_tokens: Annotated[
        int, typer.Option(min=8, max=4096, help="Length of the answers, in tokens.")
    ] = 48,
    json: JsonFlag = False,
) -> None:
    """Measure the speed of one replica, and write it to a file for `deepwell simulate`.

    The server must have nothing else to do: its answers and those of the measurement would slow each other. Measure where the
    replicas will run, with the options they will have.
    """
    with reported_errors(as_json=json):
        from deepwell.fleet.simulate.calibration.measure import Effort
        from deepwell.fleet.simulate.profile import write_profile
        from deepwell.settings import Settings

        settings = Settings.load(model=load or model, url=url, port=port, api_key=api_key)
        effort = Effort(repeats, most_batch, longest_prompt, answer_tokens, prompt_tokens)
        measured = asyncio.run(
            _in_process(settings, effort, shown=not json)
            if load is not None
            else _server(settings, model or "", effort, shown=not json)
        )
        write_profile(measured, profile)
        if json:
            import msgspec

            write_json({"profile": str(profile), **msgspec.to_builtins(measured)})
            return
        console().print(f"{profile}", soft_wrap=True)


def _told(*, shown: bool) -> Callable[[str], None]:
    err = console(stderr=True)

    def say(text: str) -> None:
        if shown:
            err.print(text, style="dim", soft_wrap=True)

    return say


async def _server(settings: Settings, model: str, effort: Effort, *, shown: bool) -> Profile:
    """Measures a server; without a name, its first model."""
    from deepwell.cli.servers import client_key, server_url
    from deepwell.fleet.simulate.calibration.http import HttpTarget
    from deepwell.fleet.simulate.calibration.measure import calibrate as measure

    target = HttpTarget(server_url(settings), model=model, key=client_key(settings))
    return await measure(target, effort, _told(shown=shown))


async def _in_process(settings: Settings, effort: Effort, *, shown: bool) -> Profile:
    from deepwell.engine.load import open_engine
    from deepwell.engine.options import EngineOptions
    from deepwell.errors import InvalidRequest
    from deepwell.fleet.simulate.calibration.measure import calibrate as measure
    from deepwell.fleet.simulate.calibration.targets import EngineTarget
    from deepwell.models.store.store import ModelStore

    found = ModelStore(settings.models_dir).resolve(settings.model or "")
    engine = open_engine(found.path, EngineOptions.of(settings, name=found.path.stem), quiet=not shown)
    try:
        able = engine.capabilities()
        if not able.generates:
            raise InvalidRequest(
                f"{able.model} generates no text", fix="measure a model that does, as smollm2"
            )
        return await measure(EngineTarget(engine), effort, _told(shown=shown))
    finally:
        engine.close()

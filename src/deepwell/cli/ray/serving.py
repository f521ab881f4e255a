"""`deepwell ray serve` and `status`: replicas of the server on a Ray cluster."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deepwell.cli.options import (
    Context,
    EmbeddingModel,
    Guard,
    Host,
    KvTokens,
    ModelsDir,
    Port,
    Precision,
    stored_models,
)
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.cli.ray.options import Cpus, there
from deepwell.messages import say

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["serve", "status"]

_NICENESS = 0  # somebody waits for these answers, as nobody does for a batch

Address = Annotated[
    str,
    typer.Option(
        "--on",
        help="Cluster to use: ray, which is the one that RAY_ADDRESS names or one of this machine; or ray://HOST:10001.",
        metavar="CLUSTER",
    ),
]


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Models to serve, the main one first: names in the stores of the machines, or paths; unset: smollm2.",
            autocompletion=stored_models,
        ),
    ] = None,
    on: Address = "ray",
    replicas: Annotated[int, typer.Option(min=1, max=1000, help="Least number of replicas.")] = 1,
    max_replicas: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Most replicas, as the load asks for them; unset: --replicas."),
    ] = None,
    target_requests: Annotated[
        float, typer.Option(min=0.1, help="Requests under way at a replica that their number aims at.")
    ] = 8.0,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Most requests under way at a replica; further ones wait.")
    ] = 64,
    cpus: Cpus = 1,
    upscale: Annotated[
        float, typer.Option(min=0, help="Seconds of load after which replicas are added.")
    ] = 10.0,
    downscale: Annotated[
        float, typer.Option(min=0, help="Seconds without load after which replicas are ended.")
    ] = 300.0,
    every_machine: Annotated[
        bool,
        typer.Option("--every-machine", help="Listen on each machine of the cluster, not on the head alone."),
    ] = False,
    host: Host = None,
    port: Port = None,
    precision: Precision = None,
    context: Context = None,
    kv_tokens: KvTokens = None,
    embedding_model: EmbeddingModel = None,
    guard: Guard = None,
    models_dir: ModelsDir = None,
    json: JsonFlag = False,
) -> None:
    """Serve models by replicas on a Ray cluster until Ctrl-C: the API of `deepwell serve`, by as many as the load asks for."""
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        named = [there(one) for one in models or ()]
        given: dict[str, Any] = {
            "model": named[0] if named else None,
            "additional_models": named[1:] or None,
            "host": host,
            "port": port,
            "precision": precision,
            "context": context,
            "kv_tokens": kv_tokens,
            "embedding_model": embedding_model,
            "guard": guard,
            "models_dir": None if models_dir is None else models_dir.resolve(),
            "threads": cpus,
        }
        settings = Settings.load(**given)
        _check_address(settings)
        from deepwell.fleet.ray.cluster import Cluster
        from deepwell.fleet.ray.serving import ServeOptions

        sent = {name: value for name, value in given.items() if value is not None}
        options = ServeOptions(
            {**sent, "model": settings.model, "host": settings.host, "port": settings.port},
            settings.host,
            settings.port,
            replicas,
            max_replicas or replicas,
            target_requests,
            max_requests,
            cpus,
            upscale,
            downscale,
            every_machine,
        )
        _until_stopped(Cluster(on, niceness=_NICENESS), options, settings, as_json=json)


def status(on: Address = "ray", json: JsonFlag = False) -> None:
    """Print the state of the application on a cluster, and the number of its replicas in each state."""
    with reported_errors(as_json=json):
        from deepwell.fleet.ray.cluster import Cluster
        from deepwell.fleet.ray.serving import status_of

        cluster = Cluster(on, must_run=True)
        try:
            from ray import serve as ray_serve

            found = status_of(ray_serve)
        finally:
            cluster.close()
        if json:
            write_json(found)
            return
        counts = ", ".join(f"{count} {state}" for state, count in sorted(found["replicas"].items()))
        console().print(f"{found['status']}  {counts}".rstrip(), soft_wrap=True)
        if found["message"]:
            console().print(found["message"], soft_wrap=True)
        elif found["status"] == "NOT_STARTED":
            console().print("`deepwell ray serve MODEL` starts it.")


def _check_address(settings: Settings) -> None:
    """Refuses an open address without keys. Each replica checks it again, with the keys of its machine."""
    from deepwell.cli.keys import has_stored_key
    from deepwell.settings import InvalidSettings

    try:
        settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
    except InvalidSettings:
        raise InvalidSettings.of("ray_serve_keys", host=settings.host) from None


def _until_stopped(cluster: Any, options: Any, settings: Settings, *, as_json: bool) -> None:
    from deepwell.cli.progress import waiting
    from deepwell.fleet.ray.serving import Replicas

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: stopped.set())

    def look() -> None:
        if stopped.is_set():
            raise KeyboardInterrupt

    try:
        with waiting(say("ray_serve_starting"), shown=not as_json):
            made = Replicas(cluster, options, on_wait=look)
        try:
            url = f"http://{settings.host}:{settings.port}"
            running = made.status()["replicas"].get("RUNNING", 0)
            if as_json:
                write_json({"event": "ready", "url": url, "model": settings.model, "replicas": running})
            else:
                said = say("ray_serve_ready", name=settings.model, url=url, replicas=running)
                console().print(said, soft_wrap=True)
            while not stopped.wait(1):
                pass
        finally:
            made.close()
    finally:
        cluster.close()

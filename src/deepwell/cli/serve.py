"""`deepwell serve`: the OpenAI-compatible server."""

from __future__ import annotations

import json as jsonlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepwell.cli.keys import check_store, has_stored_key
from deepwell.cli.loading import Loaded, load_models, parse_adapters
from deepwell.cli.options import (
    AccessLog,
    AdapterDir,
    AllowedHosts,
    BatchSize,
    Context,
    ContextPolicyOption,
    CorsOrigins,
    EmbeddingModel,
    EngineOption,
    Gpus,
    Guard,
    Host,
    Improve,
    Init,
    KeepAlive,
    Knowledge,
    KvDtype,
    KvTokens,
    ModelsDir,
    ModelsOnDemand,
    Port,
    Precision,
    ResponseCacheMb,
    SamplingDefaultsOption,
    SemanticCache,
    Speculation,
    TensorParallel,
    Threads,
    Workers,
    stored_models,
)
from deepwell.cli.output import JsonFlag, console, reported_errors, write_json
from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.messages import Language, render, say
from deepwell.process.confinement.launch import walls

if TYPE_CHECKING:
    from socket import socket

    from deepwell.cli.answers import RemoteAnswers
    from deepwell.engine.protocol import Capabilities
    from deepwell.settings import Settings

__all__ = ["register"]

DEMO_QUESTIONS: dict[Language, str] = {
    "en": "What is the capital of France? Answer in one sentence.",
    "zh": "中国的首都是哪里？请用一句话回答。",
}


Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Models to serve, the main one first: names in the store, or paths; unset: smollm2.",
        autocompletion=stored_models,
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        help="LoRA adapter to serve as a model of its own: NAME=PATH, or MODEL:NAME=PATH for another than the main model; "
        "repeatable."
    ),
]
Demo = Annotated[
    bool,
    typer.Option(
        "--demo", help="Ask one question through the API when the server is ready, and print the answer."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)


def serve(
    models: Models = None,
    host: Host = None,
    port: Port = None,
    engine: EngineOption = None,
    gpus: Gpus = None,
    tensor_parallel: TensorParallel = None,
    precision: Precision = None,
    context: Context = None,
    kv_dtype: KvDtype = None,
    kv_tokens: KvTokens = None,
    batch_size: BatchSize = None,
    threads: Threads = None,
    speculation: Speculation = None,
    response_cache_mb: ResponseCacheMb = None,
    context_policy: ContextPolicyOption = None,
    embedding_model: EmbeddingModel = None,
    semantic_cache: SemanticCache = None,
    access_log: AccessLog = None,
    sampling_defaults: SamplingDefaultsOption = None,
    models_on_demand: ModelsOnDemand = False,
    keep_alive: KeepAlive = None,
    models_dir: ModelsDir = None,
    adapter: Adapters = None,
    adapter_dir: AdapterDir = None,
    allowed_host: AllowedHosts = None,
    cors_origin: CorsOrigins = None,
    knowledge: Knowledge = None,
    guard: Guard = None,
    improve: Improve = False,
    workers: Workers = None,
    init: Init = False,
    demo: Demo = False,
    json: JsonFlag = False,
) -> None:
    """Serve models behind an OpenAI-compatible API, until Ctrl-C."""
    with reported_errors(as_json=json):
        from deepwell.settings import Settings

        settings = Settings.load(
            model=models[0] if models else None,
            additional_models=models[1:] if models else None,
            host=host,
            port=port,
            engine=engine,
            gpus=gpus,
            tensor_parallel=tensor_parallel,
            precision=precision,
            context=context,
            kv_dtype=kv_dtype,
            kv_tokens=kv_tokens,
            batch_size=batch_size,
            threads=threads,
            speculation=speculation,
            response_cache_mb=response_cache_mb,
            context_policy=context_policy,
            models_on_demand=models_on_demand or None,
            model_keep_alive_s=keep_alive,
            models_dir=models_dir,
            sampling_defaults=sampling_defaults,
            adapter_dir=adapter_dir,
            embedding_model=embedding_model,
            semantic_cache=semantic_cache,
            access_log=access_log,
            allowed_hosts=allowed_host or None,
            cors_origins=cors_origin or None,
            knowledge=knowledge,
            guard=guard,
            improve=improve or None,
            workers=workers,
        )
        if settings.gpus is not None or settings.tensor_parallel is not None:
            from deepwell.cli.engines.gpus import check_devices

            settings, notes = check_devices(settings)
            for note in notes:
                console(stderr=True).print(note.said("en" if json else None), soft_wrap=True)
        check_store(settings, init=init)
        _serve(settings, parse_adapters(adapter or []), demo=demo, as_json=json)


def _serve(settings: Settings, adapters: Mapping[str, Path], *, demo: bool, as_json: bool) -> None:
    settings.require_safe_address(stored_keys=lambda: has_stored_key(settings))
    if settings.adapter_dir is not None and not settings.adapter_dir.is_dir():
        raise InvalidRequest.of("adapter_folder_missing", path=settings.adapter_dir)
    if settings.knowledge is not None:
        from deepwell.cli.knowledge.options import require_base

        require_base(settings, settings.knowledge)
    if settings.guard is not None:
        from deepwell.safety.policy import Policy

        Policy.load(settings.guard)  # a wrong one should not cost a load
    from deepwell.cli.improving.beside import check_improving, improving
    from deepwell.server.http.listen import bind, url_of

    check_improving(settings)
    if settings.confinement == "required":
        walls().require()
    else:
        threading.Thread(target=walls, daemon=True).start()  # the welcome tells, and need not wait for it

    # Before loading: a taken port should not cost a load.
    with bind(settings.host, settings.port) as listener:
        url = url_of(listener)
        loaded = load_models(settings, adapters, demo=demo, as_json=as_json)

        def ready() -> None:
            if as_json:
                write_json({"event": "ready", "url": url, **_facts(loaded)})
            else:
                console().print(_welcome(url, loaded), soft_wrap=True)
            if demo:
                threading.Thread(target=show, daemon=True).start()

        failures: list[DeepwellError] = []

        def show() -> None:
            from deepwell.cli.answers import RemoteAnswers

            try:
                _ask_once(RemoteAnswers(url, loaded.main.name, settings.api_keys), as_json=as_json)
            except DeepwellError as error:
                failures.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            with improving(settings, loaded):
                _run(settings, listener, loaded, ready)
        finally:
            loaded.close()
        if failures:
            raise failures[0]
    if not as_json:
        console().print(say("serve_stopped"))


def _run(settings: Settings, listener: socket, loaded: Loaded, ready: Callable[[], None]) -> None:
    """Serves until a signal comes: in this process, or in several under its supervision."""
    if settings.workers > 1:
        from deepwell.server.workers.supervise import ModelAt, serve_workers

        if loaded.beyond is not None:
            settings = loaded.beyond.settings
        at = [
            ModelAt(model.name, str(model.path), model.engine.address, model.tasks, model.defaults)
            for model in loaded.models
        ]
        program = "deepwell.fleet.worker"
        serve_workers(settings, listener, at, ready, model_host=loaded.model_host, program=program)
        return
    from deepwell.dialogue.model import ServedModel
    from deepwell.dialogue.text import Codec
    from deepwell.fleet.desk import attach_desk
    from deepwell.server.build import context_of
    from deepwell.server.run import serve as run

    models = [
        ServedModel(
            model.name,
            model.engine,
            model.codec or Codec.load(model.path),
            tasks=model.tasks,
            defaults=model.defaults,
        )
        for model in loaded.models
    ]
    run(
        attach_desk(context_of(settings, models, model_host=loaded.model_host), settings),
        listener,
        log_level=settings.log_level,
        on_ready=ready,
        drain_seconds=settings.drain_seconds,
    )


def _facts(loaded: Loaded) -> dict[str, object]:
    """Returns what the ready line says: of the main model, if there is one, and the names of all."""
    about: dict[str, object] = {"models": [model.name for model in loaded.models], "pid": os.getpid()}
    if not loaded.models:
        return about
    runs = loaded.main.capabilities
    if runs.lacks:
        about["lacks"] = list(runs.lacks)
    if loaded.beyond is not None:
        about["engine"] = loaded.beyond.engine.address
    return {
        "model": loaded.main.name,
        "precision": runs.precision,
        "backend": runs.backend,
        "isa": runs.isa,
        "threads": runs.threads,
        "context": runs.max_model_len,
        "kv_cache_tokens": runs.kv_cache_tokens,
        **about,
    }


def _welcome(url: str, loaded: Loaded) -> str:
    if not loaded.models:
        return _welcome_on_demand(url, with_key=loaded.with_key)
    name, runs, with_key = loaded.main.name, loaded.main.capabilities, loaded.with_key
    kernels = _kernels(runs)
    if not runs.generates:
        return _welcome_to_embed(url, loaded, kernels)
    if loaded.beyond is not None:
        url_there = loaded.beyond.engine.url
        ready = say(
            "serve_beyond", name=name, kind=runs.backend, there=url_there, context=runs.max_model_len, url=url
        )
    else:
        ready = _ready(name, runs, kernels, url)
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    body = jsonlib.dumps({"model": name, "messages": question, "temperature": 0, "max_tokens": 60})
    key_header = ' \\\n    -H "Authorization: Bearer YOUR_KEY"' if with_key else ""
    key = "YOUR_KEY" if with_key else "none"
    return f"""
{ready}
{say("serve_console", url=url)}

  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key_header} \\
    -d '{body}'

  from openai import OpenAI  # pip install openai
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  question = [{{"role": "user", "content": "Why is the sky blue?"}}]
  answer = client.chat.completions.create(model="{name}", messages=question, temperature=0, max_tokens=60)
  print(answer.choices[0].message.content)

{_also(loaded)}{_note_of(loaded)}{_walls()}{say("serve_ends")}
"""


def _walls() -> str:
    """Returns the note that processes which read users' files are confined less than they could be; empty: they are not."""
    found = walls()
    english, chinese = found.names
    return "" if found.whole else say("serve_walls", walls=english, walls_zh=chinese) + "\n\n"


def _kernels(runs: Capabilities) -> str:
    return say("serve_kernels", isa=runs.isa) if runs.backend == "native" else say("serve_reference")


def _ready(name: str, runs: Capabilities, kernels: str, url: str) -> str:
    return say(
        "serve_ready",
        name=name,
        precision=runs.precision,
        kernels=kernels,
        threads=say("serve_thread") if runs.threads == 1 else say("serve_threads", threads=runs.threads),
        context=runs.max_model_len,
        url=url,
    )


def _welcome_on_demand(url: str, *, with_key: bool) -> str:
    key_header = ' -H "Authorization: Bearer YOUR_KEY"' if with_key else ""
    return f"""
{say("serve_on_demand", url=url)}
{say("serve_console", url=url)}

  curl {url}/v1/models{key_header}

{say("serve_lists")}

{say("serve_ends")}
"""


def _also(loaded: Loaded) -> str:
    """Returns a paragraph about the models besides the main one."""
    on_demand = say("serve_also_on_demand") + "\n\n" if loaded.host else ""
    if not (others := loaded.models[1:]):
        return on_demand
    names = ", ".join(
        say("serve_embeddings", name=one.name)
        if not one.capabilities.generates or "generate" not in one.tasks
        else one.name
        for one in others
    )
    return f"{say('serve_also', names=names)}\n\n{on_demand}"


def _note_of(loaded: Loaded) -> str:
    """Returns a paragraph for those who would ask in Chinese, if no served model is known to answer in it."""
    from deepwell.models.store.languages import chinese_note, knows_chinese

    if any(one.capabilities.generates and knows_chinese(one.name) for one in loaded.models):
        return ""
    note = chinese_note(loaded.main.name)
    return f"{note}\n\n" if note else ""


def _welcome_to_embed(url: str, loaded: Loaded, kernels: str) -> str:
    name, with_key = loaded.main.name, loaded.with_key
    precision = loaded.main.capabilities.precision
    body = jsonlib.dumps({"model": name, "input": ["How do I reset my password?", "Changing a passphrase"]})
    key_header = ' \\\n    -H "Authorization: Bearer YOUR_KEY"' if with_key else ""
    key = "YOUR_KEY" if with_key else "none"
    return f"""
{say("serve_embeds", name=name, precision=precision, kernels=kernels, url=url)}
{say("serve_console", url=url)}

  curl {url}/v1/embeddings -H 'Content-Type: application/json'{key_header} \\
    -d '{body}'

  from openai import OpenAI  # pip install openai
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.embeddings.create(model="{name}", input=["How do I reset my password?", "Changing a passphrase"])
  print(len(answer.data), len(answer.data[0].embedding))

{_also(loaded)}{say("serve_ends")}
"""


def _demo_language(model: str) -> Language:
    """Returns the first language of the model's catalog entry that there is a question in."""
    from deepwell.models.store.catalog import shipped_catalog

    entry = shipped_catalog().get(model)
    for name in entry.languages if entry else ():
        for language in DEMO_QUESTIONS:
            if language == name:
                return language
    return "en"


def _ask_once(answers: RemoteAnswers, *, as_json: bool) -> None:
    """Put one question to the server through its own API, as any client would."""
    from deepwell.cli.answers import Asked, last_of

    language = _demo_language(answers.model)
    question = DEMO_QUESTIONS[language]
    asked = Asked([{"role": "user", "content": question}], max_tokens=100, temperature=0.0)
    out = console()
    if not as_json:
        out.print(f"Q: {question}\nA: ", end="")
    text = ""
    last = None
    for part in answers.stream(asked):
        text += part.text
        last = part
        if not as_json:
            out.print(part.text, end="")
    report = last_of(last)
    if as_json:
        write_json({"event": "answer", "question": question, "answer": text, **report})
        return
    tokens, speed = report["completion_tokens"], report["tokens_per_second"]
    out.print(f"\n{say('serve_speed', tokens=tokens, speed=speed)}\n")
    out.print(say("serve_next"), soft_wrap=True)
    again, _ = render("serve_next_question", language, {})
    out.print(f'  {sys.argv[0]} ask "{again}"{_where(answers.where)}', soft_wrap=True)


def _where(url: str) -> str:
    """The flag that `ask` needs to find a server that is not at the default port."""
    port = url.rpartition(":")[2]
    return "" if port == "8000" else f" --port {port}"

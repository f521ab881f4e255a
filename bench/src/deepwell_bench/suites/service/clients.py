"""Other projects' clients against our server: chat, streams, tools, structured output, and the blocks of the guides to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from deepwell.cli.bench.report import Report
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.load import open_engine
from deepwell.engine.options import EngineOptions
from deepwell.server.build import build_context
from deepwell.server.http.listen import bind, url_of
from deepwell.server.run import Server
from deepwell_bench.harness.assets import WORKERS, bench_cache, repository
from deepwell_bench.harness.environments import (
    Environment,
    Install,
    PeerError,
    build_lock,
    build_step,
    environment_python,
)

__all__ = [
    "CLIENTS",
    "GUIDES",
    "LLAMA_INDEX",
    "ai_sdk_home",
    "bench_clients",
    "checked",
    "python_blocks",
    "ran",
]

_WORKER, _NODE_WORKER = WORKERS / "clients" / "clients_worker.py", WORKERS / "clients" / "clients_ai.mjs"
_SECONDS = 480  # for each worker
_AI_SDK = ("ai@6", "@ai-sdk/openai@3", "zod@4")

CLIENTS = Environment(
    name="clients",
    variable="DEEPWELL_CLIENTS_PYTHON",
    installs=(
        Install(("langchain>=1.1,<2", "langchain-openai>=1.1,<2", "numpy>=2")),
        Install(("pydantic-ai-slim[openai]>=2.30,<3", "instructor>=1.17,<2")),
        Install(("openai-agents>=0.24,<1", "anthropic>=2.13,<3")),
    ),
    check="import langchain, langchain_openai, pydantic_ai, instructor, agents, anthropic",
    download_mb=80,
    disk_mb=330,
    minutes=2,
)
LLAMA_INDEX = Environment(
    name="llamaindex",
    variable="DEEPWELL_LLAMAINDEX_PYTHON",
    installs=(
        Install(("llama-index-llms-openai-like>=0.8,<1", "llama-index-embeddings-openai-like>=0.4,<1")),
    ),
    check="import llama_index.llms.openai_like, llama_index.embeddings.openai_like",
    download_mb=60,
    disk_mb=330,
    minutes=2,
)

GUIDES: Mapping[str, Environment] = {"clients": CLIENTS, "langchain": CLIENTS, "llamaindex": LLAMA_INDEX}
"""The guides whose Python blocks run here, each with the environment that has its packages."""
# One model is served here; these names of the guides stand for it.
_OTHER_MODELS = re.compile(r"qwen2\.5-coder-0\.5b|minilm")


def bench_clients(report: Report, model: Path, *, threads: int) -> dict[str, Any]:
    """Runs the checks of `clients_worker.py` and `clients_ai.mjs` against a server with the real model.

    Raises:
        PeerError: the environment cannot be built, or the checks do not end.
    """
    pythons = {one.name: environment_python(one, report.console) for one in (CLIENTS, LLAMA_INDEX)}
    python, llama = pythons[CLIENTS.name], pythons[LLAMA_INDEX.name]
    home = ai_sdk_home(report.console)
    with _server(model, threads) as url:
        results = [
            *checked([str(python), str(_WORKER), f"{url}/v1", "smollm2", "others"]),
            *checked([str(llama), str(_WORKER), f"{url}/v1", "smollm2", "llamaindex"]),
            *checked(["node", str(_NODE_WORKER), str(home), f"{url}/v1", "smollm2"]),
            *(
                ran(
                    pythons[environment.name],
                    f"{name}{language}",
                    number,
                    _OTHER_MODELS.sub("smollm2", block),
                    url,
                )
                for name, environment in GUIDES.items()
                for language in ("", ".zh-CN")
                for number, block in enumerate(python_blocks(f"{name}{language}.md"), 1)
            ),
        ]
    report.table(
        f"Clients against {model.stem}",
        ["check", "client", "passed"],
        [
            [r["check"].replace("_", " "), r["client"], "yes" if r["passed"] else r["problem"]]
            for r in results
        ],
    )
    passed = Counter(result["client"] for result in results if result["passed"])
    return {
        "checks": len(results),
        "failed": [f"{r['client']}: {r['check']}" for r in results if not r["passed"]],
        "clients": len({result["client"] for result in results}),
        "failures": sum(not result["passed"] for result in results),
        **dict(passed),
    }


def ai_sdk_home(console: Console) -> Path:
    """Returns the folder whose `node_modules` have the AI SDK; npm fills it on first use.

    Raises:
        PeerError: there is no npm, or the build failed.
    """
    home = bench_cache() / "environments" / "ai-sdk"
    stamp, recipe = home / "built", json.dumps(_AI_SDK)
    if not shutil.which("npm") or not shutil.which("node"):
        raise PeerError("the AI SDK needs Node.js with npm", fix="apt-get install nodejs npm")
    with build_lock(home):
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != recipe:
            console.print(f"Building the AI SDK in {home}: 5 MB to download, 30 MB on disk, once.")
            (home / "package.json").write_text('{"private": true}', encoding="utf-8")
            build_step(
                "AI SDK",
                ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *_AI_SDK],
                home / "build.log",
                console,
                fix=f"see {home / 'build.log'}",
                cwd=home,
            )
            stamp.write_text(recipe, encoding="utf-8")
    return home


def checked(command: list[str]) -> list[dict[str, Any]]:
    """Runs one worker, and returns its checks.

    Raises:
        PeerError: the checks do not end.
    """
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"the checks did not end within {_SECONDS} s", fix="run them again") from error
    if done.returncode:
        raise PeerError(f"the checks ended with status {done.returncode}", fix="see their output above")
    return [json.loads(line) for line in done.stdout.decode().splitlines() if line.startswith("{")]


def python_blocks(guide: str) -> list[str]:
    """Returns the Python blocks of a guide."""
    text = (repository() / "docs" / "guides" / guide).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def ran(
    python: Path, guide: str, number: int, block: str, url: str, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a block of a guide as a program of its own. It passes if it ends well and prints something.

    Args:
        env: further variables of its environment.
    """
    code = block.replace("http://127.0.0.1:8000", url)
    problem = ""
    try:
        done = subprocess.run(
            [str(python), "-c", code],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={**os.environ, **(env or {})},
        )
        if done.returncode or not done.stdout.strip():
            problem = done.stderr.strip()[-600:] or "it printed nothing"
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {_SECONDS} s"
    return {"client": "guides", "check": f"{guide} block {number}", "passed": not problem, "problem": problem}


@contextlib.contextmanager
def _server(model: Path, threads: int) -> Generator[str]:
    """Serves on a port of its own."""
    engine = open_engine(
        model,
        EngineOptions(precision="int4", threads=threads, kv_tokens=8192, cache_dir=bench_cache()),
        quiet=True,
    )
    context = build_context([ServedModel("smollm2", engine, Codec.load(model))])
    ready = threading.Event()
    listener = bind("127.0.0.1", 0)
    server = Server(context, grace_seconds=0, on_ready=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    url = url_of(listener)
    thread.start()
    try:
        if not ready.wait(timeout=60):
            raise PeerError("the server did not start", fix="run it with `deepwell serve`")
        yield url
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        engine.close()

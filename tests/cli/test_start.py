"""A start imports and builds only what it needs, by names of modules: that is why it is quick."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepwell.cli import VERBS, modules_for

# Serves a model and prints, when it is ready, what this process has loaded; then stops.
SERVE = """
import gc, json, os, signal, sys
import deepwell.cli as cli
import deepwell.cli.serve as serve
from deepwell.server.http.schema import Strict

def subclasses(kind):
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)

def told(event):
    built = [one.__name__ for one in subclasses(Strict) if one.__pydantic_complete__]
    print(json.dumps({"modules": sorted(sys.modules), "built": built, "collects": gc.isenabled()}), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

serve.write_json = told
sys.argv = ["deepwell", "serve", *sys.argv[1:], "--port", "0", "--json"]
cli.main()
"""
# Runs a command line that gets a real SIGINT where it imports a module.
INTERRUPTED = """
import os, signal, sys
from deepwell.cli import main

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
sys.argv = ["deepwell", *{line!r}.split()]
main()
"""
LISTS = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def run(code: str, *arguments: str) -> Any:
    """Runs Python code in a process of its own, and returns its last line, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded(modules: list[str], *names: str) -> list[str]:
    """Returns those of some names whose module, or one below it, is among the modules."""
    return [name for name in names if any(f"{one}.".startswith(f"{name}.") for one in modules)]


def test_a_server_with_an_upgraded_database_loads_and_builds_only_what_it_serves_with(
    tiny_model: Path,
) -> None:
    first = run(SERVE, str(tiny_model))
    assert loaded(first["modules"], "alembic") == ["alembic"]  # it made the tables
    second = run(SERVE, str(tiny_model))
    assert loaded(second["modules"], "fastapi", "sqlalchemy") == ["fastapi", "sqlalchemy"]
    unneeded = (
        *("alembic", "sqlalchemy.dialects.postgresql", "psycopg", "deepwell.storage.postgres"),
        *("llguidance", "deepwell.engine.core.loop", "deepwell.engine.backends.native"),
        *("httpx", "rich", "opentelemetry.sdk", "deepwell.server.caches.wording"),
        *(f"deepwell.cli.{verb}" for verb in VERBS if verb not in ("serve", "keys")),
    )
    assert loaded(second["modules"], *unneeded) == []
    assert second["built"] == []  # the validators of requests, which the first request builds
    assert second["collects"]  # garbage, which no start does


def test_the_engine_process_loads_no_settings_no_templates_and_no_server() -> None:
    modules = run(f"import deepwell.engine.hosting.process, deepwell.engine.load; {LISTS}")
    unneeded = (
        "pydantic",
        "jinja2",
        "fastapi",
        "sqlalchemy",
        "typer",
        "deepwell.settings",
        "deepwell.server",
    )
    assert loaded(modules, *unneeded) == []


def test_a_plan_loads_nothing_that_runs_a_model() -> None:
    modules = run(f"import deepwell.engine.planning; {LISTS}")
    unneeded = ("deepwell.engine.core.loop", "deepwell.engine.backends.native", "tokenizers", "llguidance")
    assert loaded(modules, *unneeded) == []


def test_the_version_loads_no_verb_and_no_framework() -> None:
    code = f"import sys; from deepwell.cli import main; sys.argv = ['deepwell', '--version']; main(); {LISTS}"
    unneeded = ("typer", "rich", "pydantic", "numpy", "fastapi", *(f"deepwell.cli.{verb}" for verb in VERBS))
    assert loaded(run(code), *unneeded) == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_line_that_begins_with_a_verb_loads_that_verb_alone(verb: str) -> None:
    assert modules_for([verb, "--help"]) == (verb,)


@pytest.mark.parametrize("line", ["", "--help", "--version serve", "serv", "list", "--show-completion"])
def test_any_other_line_loads_all_verbs(line: str) -> None:
    assert {*VERBS, "aliases"} == set(modules_for(line.split()))


@pytest.mark.parametrize("module", ["deepwell.cli.usage", "typer", "typer.main", "deepwell.cli.{verb}"])
@pytest.mark.parametrize(
    "line", ["serve nothing", "tune run nothing", "evaluate nothing", "models", "--help"]
)
def test_an_interrupt_during_the_imports_ends_quietly(line: str, module: str) -> None:
    verb = line.split()[0] if line != "--help" else "bench"
    code = INTERRUPTED.format(module=module.format(verb=verb), line=line)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("module", ["deepwell.settings", "pydantic", "deepwell.cli.output"])
def test_an_interrupt_while_a_verb_imports_what_it_needs_ends_quietly(module: str) -> None:
    code = INTERRUPTED.format(module=module, line="models list")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")

"""A deployment whose replicas have the paced engine, for benchmarks: `deployment SPEC`, a file of JSON.

The spec has `declaration`, the `model` whose tokenizer is used, `ways` with the arguments of `replica` by the name of the
model, `served` with files of real models by name, `routing`, and `plain` for the replicas of `deploy apply` itself. The
supervisor, the front and the server are those of `deploy apply`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepwell.fleet.deploy.declaration import Declaration
from deepwell.fleet.deploy.machine import Opened, run_opened
from deepwell.fleet.deploy.release import Release
from deepwell.fleet.pods.pod import ANY, Contained, Pod, inside_release
from deepwell.process.programs import Program
from deepwell.settings import Settings
from deepwell_bench.harness.assets import repository

__all__ = ["main"]

_SOURCES = {"src": "/source", "bench/src": "/source-of-benchmarks"}


def main(spec: str) -> None:
    """Runs until a signal comes."""
    told = json.loads(Path(spec).read_text(encoding="utf-8"))
    declaration = Declaration.model_validate(told["declaration"])

    def make(release: Release, name: str, port: int) -> Program:
        environ = {**os.environ, "DEEPWELL_RELEASE": f"{declaration.alias}={release.model}"}
        if release.policy is not None:
            environ["DEEPWELL_GUARD"] = release.policy
        served = told.get("served", {}).get(release.model)
        if opened.pod is not None:
            return _contained(
                opened.pod, declaration, told, release, Program(name, (), {}, Path.cwd(), ("127.0.0.1", port))
            )
        if served is None:
            way = [str(one) for one in told["ways"][release.model]]
            command = ("deepwell_bench.workers.fleet.replica", told["model"], str(port), *way)
        else:
            command = ("deepwell", "serve", served, "--port", str(port), "--json", *declaration.serve.flags())
        return Program(name, (sys.executable, "-m", *command), environ, Path.cwd(), ("127.0.0.1", port))

    opened = Opened(
        declaration,
        Settings.load(),
        _say,
        make=None if told.get("plain") else make,
        routing=told.get("routing", "prefix"),
    )
    run_opened(opened)


def _contained(
    pod: Pod, declaration: Declaration, told: Mapping[str, Any], release: Release, program: Program
) -> Program:
    """Returns a paced replica in a container, which runs the code of this checkout with the packages of the image."""
    moved, given = inside_release(replace(release, base=str(Path(told["model"]).resolve())))
    way = [str(one) for one in told["ways"][release.model]]
    variables = [("PYTHONPATH", ":".join(_SOURCES.values())), *pod.variables(release, program.address[1])]
    variables += [] if moved.policy is None else [("DEEPWELL_GUARD", moved.policy)]
    worker = ("-m", "deepwell_bench.workers.fleet.replica", moved.base, str(program.address[1]))
    inside = Contained(
        declaration.containers.image,
        (*worker, *way, f"host={ANY}"),
        folders=(*((repository() / part, place) for part, place in _SOURCES.items()), *given),
        volumes=(f"{pod.name}-data:/data",),
        variables=tuple(variables),
        secrets=pod.secrets(),
        options=("--entrypoint=python",),
    )
    return pod.contained(program, inside)


def _say(event: Mapping[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

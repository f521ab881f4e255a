"""Schemathesis against the server: requests made from its own OpenAPI document, answers held against it."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.environments import Environment, Install, PeerError, environment_python
from deepwell_bench.harness.served import paced_command, served

__all__ = ["SCHEMATHESIS", "bench_fuzz"]

SCHEMATHESIS = Environment(
    name="schemathesis",
    variable="DEEPWELL_SCHEMATHESIS_PYTHON",
    installs=(Install(("schemathesis>=4,<5",)),),
    check="import schemathesis",
    download_mb=20,
    disk_mb=80,
    minutes=1,
)

# Left out: whether every request that fits the schema is accepted. Names of models, ids and lengths of contexts decide too,
# which no schema can say.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)

_TAGGED = ("OllamaModel", "OllamaRunningModel")  # entries of lists, where a model's name has a tag


def bench_fuzz(report: Report, model: Path, *, minutes: float = 5.0, seed: int = 1) -> dict[str, Any]:
    """Counts failures of each check. The engine behind the server is paced without delays: the API is what is tried.

    Raises:
        PeerError: the environment cannot be built, or schemathesis says nothing that can be read.
    """
    python = environment_python(SCHEMATHESIS, report.console)
    command = paced_command(model, first_ms=0, token_ms=0, tokens=8)
    with served(command) as port, tempfile.TemporaryDirectory() as folder:
        document = Path(folder) / "openapi.json"
        document.write_text(json.dumps(_of_one_model(port)), encoding="utf-8")
        command = [
            *(str(python.parent / "schemathesis"), "run", str(document), "--url", f"http://127.0.0.1:{port}"),
            *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--seed", str(seed)),
            *("--max-time", str(int(minutes * 60)), "--max-examples", "100000", "--workers", "1"),
            *("--continue-on-failure", "--no-color"),
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    text = done.stdout
    cases = re.search(r"(\d[\d,]*) generated", text)
    if cases is None:
        raise PeerError(f"schemathesis ended with status {done.returncode}:\n{text[-1500:]}")
    unique = re.search(r"found (\d+) unique failures", text)
    failures = int(unique[1]) if unique else 0
    if failures:
        report.note(text[-12_000:])
    return {
        "cases": int(cases[1].replace(",", "")),
        "failures": failures,
        "minutes": minutes,
        "checks": len(CHECKS),
        "finished": done.returncode in (0, 1),
    }


def _of_one_model(port: int) -> dict[str, Any]:
    """Returns the server's document with the served model for every model: any other ends at 404, before all else is read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=30) as answer:
        document: dict[str, Any] = json.load(answer)
    for name, schema in document["components"]["schemas"].items():
        if "model" in schema.get("required", ()) and name not in _TAGGED:
            schema["properties"]["model"] = {"const": "paced"}
    return document

"""The requests of Open WebUI's backend, over its OpenAI connection, against a server with keys."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.assets import WORKERS
from deepwell_bench.harness.served import served
from deepwell_bench.suites.service.clients import checked

__all__ = ["bench_open_webui"]

_WORKER = WORKERS / "clients" / "clients_webui.py"
_MODEL, _EMBEDDER = "smollm2", "minilm"


def bench_open_webui(report: Report) -> dict[str, Any]:
    """Runs the checks of `clients_webui.py`.

    Raises:
        PeerError: the checks do not end.
    """
    key = f"key-{secrets.token_hex(16)}"

    def command(port: int) -> list[str]:
        flags = ["--embedding-model", _EMBEDDER, "--context", "4096", "--port", str(port)]
        return [sys.executable, "-m", "deepwell", "serve", _MODEL, *flags]

    with served(command, env={"DEEPWELL_API_KEYS": key}) as port:
        url = f"http://127.0.0.1:{port}"
        results = checked([sys.executable, str(_WORKER), url, key, _MODEL, _EMBEDDER])
    rows = [[one["check"].replace("_", " "), "yes" if one["passed"] else one["problem"]] for one in results]
    report.table("Open WebUI's requests", ["check", "passed"], rows)
    failed = [one["check"] for one in results if not one["passed"]]
    return {"checks": len(results), "failed": failed, "failures": len(failed)}

"""The process that trains: what it is given of the server's environment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deepwell.server.families.fine_tuning.child import TrainingChild

SAY = """
import json, os
from pathlib import Path
place = Path("/proc/self/oom_score_adj")
score = int(place.read_text()) if place.exists() else 1000
print(json.dumps({"event": "names", "names": sorted(os.environ), "score": score, "nice": os.nice(0)}), flush=True)
"""


async def test_a_training_gets_no_secrets_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    secrets = (
        "DEEPWELL_API_KEYS",
        "DEEPWELL_DATABASE_URL",
        "PGPASSWORD",
        "GITHUB_PAT_TOKEN",
        "HTTPS_PROXY",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "AWS_WEB_IDENTITY_CREDENTIALS",
        "sentry_dsn",
    )
    for name in secrets:
        monkeypatch.setenv(name, "hidden")
    monkeypatch.setenv("DEEPWELL_MODELS_DIR", "/models")
    child = await TrainingChild.start((sys.executable, "-c", SAY), tmp_path, 1)
    try:
        told = await child.event()
    finally:
        await child.end(gently=False)
    assert told is not None
    assert not set(secrets) & set(told["names"])
    assert (told["score"], told["nice"]) == (
        1000,
        19,
    )  # it goes before the server where memory or time is short
    assert {"PATH", "DEEPWELL_MODELS_DIR", "OMP_NUM_THREADS"} <= set(told["names"])

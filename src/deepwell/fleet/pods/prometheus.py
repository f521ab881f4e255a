"""Configuration of the Prometheus of a pod, with the replicas that run at the moment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

__all__ = ["CONFIG_FOLDER", "DATA_FOLDER", "RULES_FILE", "config_text", "targets_text", "write_targets"]

CONFIG_FOLDER: Final = "/etc/prometheus/deployment"
"""Place of its configuration inside its container."""

DATA_FOLDER: Final = Path("/var/lib/prometheus/data")
"""Place of its figures inside its container."""

RULES_FILE: Final = "/etc/prometheus/deepwell.rules.yml"
"""The rules and alerts, in its image."""

_TARGETS: Final = "replicas.json"


def config_text(front_port: int, host: str = "127.0.0.1") -> str:
    """Returns the configuration, which is JSON because that is YAML as well. `front_port` has the front's figures."""
    jobs: list[dict[str, Any]] = [
        {
            "job_name": "deepwell",
            "metrics_path": "/metrics",
            "authorization": {"credentials_file": "/run/secrets/scrape"},
            "file_sd_configs": [{"files": [f"{CONFIG_FOLDER}/{_TARGETS}"], "refresh_interval": "5s"}],
        },
        {
            "job_name": "front",
            "metrics_path": "/metrics",
            "static_configs": [{"targets": [f"{host}:{front_port}"]}],
        },
    ]
    whole = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "15s"},
        "rule_files": [RULES_FILE],
        "scrape_configs": jobs,
    }
    return json.dumps(whole, indent=2) + "\n"


def targets_text(slots: Sequence[Mapping[str, Any]]) -> str:
    """Returns the replicas that run, with slot and release, as Prometheus reads them from a file."""
    found: list[dict[str, Any]] = []
    for slot in slots:
        ports = [one["port"] for one in slot["replicas"] if one["state"] == "ready"]
        if slot["release"] is not None and ports:
            labels = {"slot": slot["slot"], "release": slot["release"]["name"]}
            found.append({"targets": [f"127.0.0.1:{one}" for one in ports], "labels": labels})
    return json.dumps(found, indent=1) + "\n"


def write_targets(folder: Path, slots: Sequence[Mapping[str, Any]]) -> None:
    """Writes the replicas that run, if they are others than before. Prometheus sees the change by itself."""
    file, text = folder / _TARGETS, targets_text(slots)
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    other = file.with_suffix(".new")
    other.write_text(text, encoding="utf-8")
    other.chmod(0o644)
    other.replace(file)

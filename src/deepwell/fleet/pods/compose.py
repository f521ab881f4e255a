"""A deployment as a compose file, with the configuration of each part and the secrets in files beside it.

It is for machines that are run by compose. There is no supervisor, so there are no roll-outs: another model is another
rendering, and `compose up -d` replaces the replicas.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from deepwell.errors import InvalidRequest
from deepwell.fleet.deploy.declaration import Declaration, credentials_of, secret_of
from deepwell.fleet.deploy.manifests import Rendered
from deepwell.fleet.deploy.release import Release, plain_name
from deepwell.fleet.deploy.replicas import LOOPBACK, serve_arguments
from deepwell.fleet.front.front import write_whole
from deepwell.fleet.front.haproxy import HaproxyTerms, ServerLine, owners_text, routes_text
from deepwell.fleet.front.haproxy import config_text as haproxy_text
from deepwell.fleet.front.routes import Routes
from deepwell.fleet.pods.pod import ANY, check_mounted, inside_release, pod_name
from deepwell.fleet.pods.prometheus import CONFIG_FOLDER, DATA_FOLDER
from deepwell.fleet.pods.prometheus import config_text as prometheus_text

__all__ = ["render_compose"]

_PORT: Final = 8000
_METRICS_PORT: Final = 8405
_POSTGRES_PORT: Final = 5432
_VALKEY_PORT: Final = 6379
_FRONT: Final = "/etc/haproxy/deepwell"
_RUN: Final = "/run/deepwell"
_MODELS: Final = "/models"
_MARGIN_S: Final = 30
"""Seconds that a container has to end beyond the time that answers have."""

_READY: Final = (
    "import urllib.request as u; u.urlopen('http://127.0.0.1:{port}{path}', timeout=4)"  # as in the image
)


def render_compose(declaration: Declaration, folder: Path, models: Path, *, answer_s: float) -> Rendered:
    """Writes `compose.yaml`, the configuration of the front and of Prometheus, and secrets that are not there yet.

    Args:
        folder: made if need be, readable by this user alone. Its secrets stay when it is rendered anew.
        models: folder of models of the machine, which the replicas read.
        answer_s: longest silence within an answer; 0: no limit.

    Raises:
        InvalidRequest: a secret of the declaration cannot be read, or it has what needs a database of one machine.
    """
    if declaration.knowledge is not None:
        raise InvalidRequest.of("deploy_compose_knowledge")
    if declaration.port == 0:
        raise InvalidRequest.of("deploy_compose_port")
    check_mounted(models)
    folder.mkdir(parents=True, exist_ok=True)
    # Files that containers read are readable by all, as other users run there; nobody else passes this folder
    folder.chmod(0o700)
    named = _secrets(declaration, folder / "secrets")
    _configure(declaration, folder, answer_s)
    text = yaml.safe_dump(
        _compose(declaration, folder, models, named), sort_keys=False, width=128, allow_unicode=True
    )
    head = "# Written by `deepwell deploy render --to compose`: render it anew instead of editing it.\n"
    file = folder / "compose.yaml"
    file.write_text(head + text, encoding="utf-8")
    written = sorted(one for one in folder.rglob("*") if one.is_file() and one.parent.name != "secrets")
    command = f"docker compose -f {shlex.quote(str(file))}"
    return Rendered((*written, folder / "secrets"), (f"{command} up -d", f"{command} down"))


def _secrets(declaration: Declaration, folder: Path) -> list[str]:
    """Writes the secrets, and returns the names of those that containers get. Passwords and keys are made once."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)

    def made(name: str, value: str) -> str:
        if not (folder / name).exists():
            _readable(folder / name, f"{value}\n")
        return secret_of(f"file:{folder / name}")

    names = ["settings"]
    settings: dict[str, Any] = {}
    if declaration.database is None:
        password = made("postgres", secrets.token_hex(24))
        names.append("postgres")
        settings["database_url"] = f"postgresql://deepwell:{password}@postgres:{_POSTGRES_PORT}/deepwell"
    else:
        settings["database_url"] = secret_of(declaration.database)
    if declaration.valkey is None:
        password = made("valkey", secrets.token_hex(24))
        names.append("valkey")
        settings["valkey_url"] = f"valkey://:{password}@valkey:{_VALKEY_PORT}/0"
    else:
        settings["valkey_url"] = secret_of(declaration.valkey)
    settings["api_keys"] = [made("key", f"dw-{secrets.token_urlsafe(32)}")]
    if declaration.containers.prometheus_port is not None:
        settings["api_keys"].append(made("scrape", f"fleet-{secrets.token_urlsafe(32)}"))
        names.append("scrape")
    if declaration.blobs is not None and declaration.blobs.credentials is not None:
        _readable(folder / "blobs", f"{credentials_of(declaration.blobs.credentials)}\n")
        names.append("blobs")
    # Strings of JSON are strings of TOML, but for DEL, which no secret of one line has
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in settings.items()]
    _readable(folder / "settings", "".join(lines))
    return names


def _readable(file: Path, text: str) -> None:
    write_whole(file, text)
    file.chmod(0o644)


def _names(declaration: Declaration) -> list[str]:
    return [f"replica{number}" for number in range(declaration.replicas)]


def _configure(declaration: Declaration, folder: Path, answer_s: float) -> None:
    """Writes what the front and Prometheus read."""
    front = folder / "front"
    front.mkdir(exist_ok=True)
    front.chmod(0o755)
    terms = HaproxyTerms(
        Path(_FRONT),
        ANY,
        _PORT,
        answer_s=answer_s or 86_400.0,
        drain_s=declaration.rollout.drain_seconds,
        metrics_port=_METRICS_PORT,
        metrics_host=ANY,
        resolves=True,
    )
    lines = [ServerLine(name, _PORT, "ready", name) for name in _names(declaration)]
    routes = Routes({"blue": plain_name(declaration.model)})
    config = haproxy_text(terms, Path(_RUN) / "haproxy.sock", {"blue": lines, "green": ()})
    for name, text in {
        "haproxy.cfg": config,
        "routes.map": routes_text(routes),
        "owners.map": owners_text(None),
    }.items():
        _readable(front / name, text)
    if declaration.containers.prometheus_port is None:
        return
    prometheus = folder / "prometheus"
    prometheus.mkdir(exist_ok=True)
    prometheus.chmod(0o755)
    labels = {"slot": "blue", "release": declaration.model}
    targets = [{"targets": [f"{name}:{_PORT}" for name in _names(declaration)], "labels": labels}]
    _readable(prometheus / "prometheus.yml", prometheus_text(_METRICS_PORT, "front"))
    _readable(prometheus / "replicas.json", json.dumps(targets, indent=1) + "\n")


def _compose(declaration: Declaration, folder: Path, models: Path, named: Sequence[str]) -> dict[str, Any]:
    terms = declaration.containers
    own = {"postgres": terms.postgres, "valkey": terms.valkey}
    services: dict[str, Any] = {"front": _front(declaration, terms.haproxy)}
    replica = _replica(declaration, models, named, [one for one in own if one in named])
    services |= dict.fromkeys(_names(declaration), replica)
    volumes = ["data"]
    if "postgres" in named:
        services["postgres"] = _postgres(terms.postgres)
        volumes.append("postgres")
    if "valkey" in named:
        services["valkey"] = _valkey(terms.valkey)
    if terms.prometheus_port is not None:
        services["prometheus"] = _prometheus(terms.prometheus, terms.prometheus_port)
        volumes.append("prometheus")
    return {
        "name": pod_name(declaration.name),
        "services": {name: _plain(one) for name, one in services.items()},
        # Replicas reach what the declaration names outside; the database and Valkey reach nothing, and nobody but them
        "networks": {"outside": {}, "inside": {"internal": True}},
        "volumes": {name: {} for name in volumes},
        "secrets": {name: {"file": f"./secrets/{name}"} for name in named},
    }


def _plain(value: Any) -> Any:
    """Returns a value in which compose sees no variables."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _locked(image: str, stop_s: float, check: Sequence[str], *, start_s: int = 60) -> dict[str, Any]:
    return {
        "image": image,
        "restart": "unless-stopped",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
        "stop_grace_period": f"{round(stop_s)}s",
        "healthcheck": {
            "test": ["CMD", *check],
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{start_s}s",
        },
    }


def _front(declaration: Declaration, image: str) -> dict[str, Any]:
    """haproxy. Told to end, it takes no connections and waits for its answers; replicas end after it."""
    host = f"[{declaration.host}]" if ":" in declaration.host else declaration.host
    drain_s = declaration.rollout.drain_seconds
    return {
        **_locked(image, drain_s + _MARGIN_S, ("haproxy", "-c", "-q", "-C", _FRONT, "-f", "haproxy.cfg")),
        "command": ["-db", "-C", _FRONT, "-f", "haproxy.cfg"],
        "user": "haproxy",
        "stop_signal": "SIGUSR1",
        "ports": [f"{host}:{declaration.port}:{_PORT}"],
        "networks": ["outside", "inside"],
        "volumes": [f"./front:{_FRONT}:ro"],
        "tmpfs": [f"{_RUN}:mode=1777"],
        "depends_on": _names(declaration),
    }


def _replica(
    declaration: Declaration, models: Path, named: Sequence[str], needs: Sequence[str]
) -> dict[str, Any]:
    release = Release(
        declaration.model, declaration.model, declaration.model, declaration.adapters, declaration.policy
    )
    moved, folders = inside_release(release)
    arguments = [one for one in serve_arguments(declaration, moved, _PORT, ANY) if one != "--json"]
    blobs = declaration.blobs
    ready = ("python", "-c", _READY.format(port=_PORT, path="/readyz"))
    drain_s = declaration.rollout.drain_seconds
    return {
        **_locked(declaration.containers.image, drain_s + _MARGIN_S, ready, start_s=600),
        "command": ["serve", *arguments],
        "environment": {
            "DEEPWELL_CONFIG": "/run/secrets/settings",
            "DEEPWELL_MODELS_DIR": _MODELS,
            "DEEPWELL_RELEASE": f"{declaration.alias}={declaration.model}",
            "DEEPWELL_DRAIN_SECONDS": f"{drain_s:g}",
            **({} if blobs is None else blobs.variables("/run/secrets/blobs" if "blobs" in named else None)),
        },
        "networks": ["outside", "inside"],
        "volumes": [
            f"{models.absolute()}:{_MODELS}:ro",
            "data:/data",
            *(f"{one}:{place}:ro" for one, place in folders),
        ],
        "tmpfs": ["/tmp:mode=1777"],  # noqa: S108
        "secrets": [one for one in ("settings", "blobs") if one in named],
        "depends_on": list(needs),
    }


def _postgres(image: str) -> dict[str, Any]:
    check = ("pg_isready", "--quiet", f"--host={LOOPBACK}", f"--port={_POSTGRES_PORT}")
    return {
        **_locked(image, 60, check),
        "command": [str(_POSTGRES_PORT)],
        "networks": ["inside"],
        "volumes": ["postgres:/var/lib/postgresql/data"],
        "tmpfs": ["/tmp:mode=1777"],  # noqa: S108
        "shm_size": "256m",
        "secrets": ["postgres"],
    }


def _valkey(image: str) -> dict[str, Any]:
    ask = f'REDISCLI_AUTH="$(cat /run/secrets/valkey)" valkey-cli -p {_VALKEY_PORT} ping | grep -q PONG'
    return {
        **_locked(image, 10, ("sh", "-c", ask)),
        "command": [str(_VALKEY_PORT)],
        "networks": ["inside"],
        "tmpfs": ["/tmp:mode=1777"],  # noqa: S108
        "secrets": ["valkey"],
    }


def _prometheus(image: str, port: int) -> dict[str, Any]:
    check = ("bash", "-c", f"exec 3<>/dev/tcp/{LOOPBACK}/{port}")
    return {
        **_locked(image, 30, check),
        "command": [
            f"--config.file={CONFIG_FOLDER}/prometheus.yml",
            f"--storage.tsdb.path={DATA_FOLDER}",
            f"--web.listen-address={ANY}:{port}",
            "--log.level=warn",
        ],
        "ports": [f"{LOOPBACK}:{port}:{port}"],
        "networks": ["outside", "inside"],
        "volumes": [f"./prometheus:{CONFIG_FOLDER}:ro", f"prometheus:{DATA_FOLDER.parent}"],
        "secrets": ["scrape"],
    }

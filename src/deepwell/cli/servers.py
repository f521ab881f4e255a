"""Servers as the command line meets them: the one it talks to, and those that run on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlsplit

from deepwell.errors import DeepwellError, InvalidRequest

if TYPE_CHECKING:
    from pydantic import SecretStr

    from deepwell.settings import Settings

__all__ = [
    "FoundServer",
    "InvalidKey",
    "client_key",
    "connect_seconds",
    "examine_server",
    "require_key",
    "running_servers",
    "server_url",
    "unload",
]

_LOCAL_SECONDS = 0.5  # a server on this machine answers at once or is not there
_FAR_SECONDS = 5.0
_LIST_SECONDS = 3.0  # at least: listing models on demand reads the headers of new ones
_OUR_CODES = ("engine_unavailable", "shutting_down", "keys_unavailable")


@dataclass(frozen=True, slots=True)
class FoundServer:
    """The server at a URL, as two requests found it.

    Attributes:
        state: `absent` if nobody answers, `foreign` if it is no OpenAI-compatible server, `keyed` if it refuses the key.
        models: names of the served models, the main one first.
        generating: names of those that say how they sample, so they generate text. Only Deepwell's servers say it.
        states: of those that are loaded on demand: not_loaded, loading, loaded or unloading.
        is_deepwell: whether it is a Deepwell server.
        is_ready: whether it takes requests.
        detail: what it says of itself.
        pid: its process; None if it was not looked for.
    """

    url: str
    state: Literal["absent", "foreign", "keyed", "serving"]
    models: tuple[str, ...] = ()
    generating: frozenset[str] = frozenset()
    states: Mapping[str, str] = field(default_factory=dict[str, str])
    is_deepwell: bool = False
    is_ready: bool = False
    detail: str = ""
    pid: int | None = None

    @property
    def own_model(self) -> str:
        """The model for a question that names none: the first that generates text, a loaded one if there is any."""
        able = [name for name in self.models if name in self.generating] or list(self.models)
        return next((name for name in able if self.states.get(name, "loaded") == "loaded"), able[0])


def server_url(settings: Settings) -> str:
    """Returns the URL of the server to talk to, without a slash or `/v1` at its end.

    Raises:
        InvalidRequest: the setting `url` is none.
    """
    if settings.url is None:
        from deepwell.server.http.listen import local_url

        return local_url(settings.host, settings.port)
    given = settings.url if "://" in settings.url else f"http://{settings.url}"
    with suppress(ValueError):
        parts = urlsplit(given)
        is_port = parts.port is None or parts.port > 0  # reading it raises where it is no port
        if parts.scheme in ("http", "https") and parts.hostname and is_port:
            return re.sub(r"/(v1/?)?$", "", given.rstrip("/"))
    raise InvalidRequest.of("url_unusable", url=settings.url)


def client_key(settings: Settings) -> SecretStr | None:
    """Returns the key to send: the client's own, else the first that a server here would accept."""
    return settings.api_key or next(iter(settings.api_keys), None)


def connect_seconds(url: str) -> float:
    """Returns how long to wait for a connection."""
    host = urlsplit(url).hostname or ""
    return _LOCAL_SECONDS if host in ("localhost", "::1") or host.startswith("127.") else _FAR_SECONDS


def examine_server(url: str, key: SecretStr | None = None, *, pid: int | None = None) -> FoundServer:
    """Asks what answers at a URL. Two small requests, which cost no tokens."""
    import httpx

    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    seconds = connect_seconds(url)
    timeout = httpx.Timeout(max(seconds, _LIST_SECONDS), connect=seconds)
    try:
        # A proxy of the environment has no business here.
        with httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False) as http:
            listed = http.get("/v1/models")
            ready, detail, ours = _readiness(http)
    except (httpx.HTTPError, httpx.InvalidURL):
        return FoundServer(url, "absent", pid=pid)
    said = {"is_deepwell": ours, "is_ready": ready, "detail": detail, "pid": pid}
    if listed.status_code in (401, 403):
        return FoundServer(url, "keyed", **said)
    try:
        cards = listed.json()["data"]
        models = tuple(str(card["id"]) for card in cards)
        generating = frozenset(str(card["id"]) for card in cards if "default_sampling" in card)
        states = {str(card["id"]): str(card["state"]) for card in cards if "state" in card}
    except (ValueError, KeyError, TypeError):
        return FoundServer(url, "serving" if ours else "foreign", **said)
    return FoundServer(url, "serving", models, generating, states, **said)


def unload(url: str, model: str, key: SecretStr | None) -> None:
    """Asks a server to unload a model that it loaded on demand.

    Raises:
        DeepwellError: nobody answers, or the server refuses, with its reason.
    """
    import httpx

    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=30.0, trust_env=False) as http:
            answer = http.delete(f"/v1/models/{quote(model, safe='')}")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeepwellError(f"no server answers at {url}: {error}", fix="start one: deepwell serve") from None
    if answer.status_code != 200:
        try:
            message = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            message = f"{url} answered {answer.status_code}"
        raise DeepwellError(message)


def _readiness(http: Any) -> tuple[bool, str, bool]:
    """Returns whether the server takes requests, what it says of it, and whether it is a Deepwell server."""
    try:
        response = http.get("/readyz")
        body = response.json()
        if response.status_code != 200:
            return False, str(body["error"]["message"]), body["error"].get("code") in _OUR_CODES
        restarts = int(body["engine_restarts"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return True, "", False
    return True, f"ready, its engine restarted {restarts} times" if restarts else "ready", True


def require_key(found: FoundServer, key: SecretStr | None) -> None:
    """Refuses to go on with a server that wants another key.

    Raises:
        DeepwellError: the server asks for a key, or does not know the one that was sent.
    """
    if found.state == "keyed":
        raise InvalidKey.of("key_refused" if key else "key_needed", url=found.url)


class InvalidKey(DeepwellError):
    """Raised when a server asks for an API key, or does not know the one that it was given."""

    type = "invalid_api_key"
    code = "invalid_api_key"


def running_servers(settings: Settings) -> list[FoundServer]:
    """Returns the Deepwell servers of this user on this machine, in the order of their ports, and that of `url`."""
    from deepwell.server.http.listen import listening_ports, local_url

    key = client_key(settings)
    found: dict[str, FoundServer] = {}
    for port, pid in sorted(listening_ports(_serving_processes()).items()):
        url = local_url("127.0.0.1", port)
        found[url] = examine_server(url, key, pid=pid)
    configured = server_url(settings)
    if configured.replace("localhost", "127.0.0.1") not in found:
        found[configured] = examine_server(configured, key)
    return [server for server in found.values() if server.is_deepwell]


def _serving_processes() -> list[Path]:
    """Returns the folders in /proc of the processes that run `deepwell serve`."""
    found: list[Path] = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any("deepwell" in word for word in words[:4]) and {"serve", "run"} & set(words):
                found.append(process)
    return found

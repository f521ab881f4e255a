"""`RemoteAddress`: which server runs the model, as the setting `engine` names it: KIND=URL, or a URL alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr

from deepwell.errors import InvalidRequest

if TYPE_CHECKING:
    from deepwell.settings import Settings

__all__ = ["KINDS", "Kind", "RemoteAddress", "RemoteOptions", "is_remote"]

Kind = Literal["vllm", "sglang", "openai"]
"""The kind of a server: whose requests it understands."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_MOST_KEY_BYTES: Final = 8192


@dataclass(frozen=True, slots=True)
class RemoteAddress:
    """A server's kind and place.

    Attributes:
        kind: None: it is found out by asking.
        url: scheme, host, port and the path in front of `/v1`, without a slash at the end.
    """

    kind: Kind | None
    url: str

    @classmethod
    def parse(cls, text: str) -> RemoteAddress:
        """Reads KIND=URL or a URL. A `/v1` at its end, as clients of OpenAI write it, is left out.

        Raises:
            InvalidRequest: it is neither, or holds a password or a query.
        """
        head, equals, rest = text.partition("=")
        kind: Kind | None = next((one for one in KINDS if equals and one == head), None)
        url = rest if kind else text
        if equals and kind is None and "/" not in head:
            raise _refused(text)
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise _refused(text) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise _refused(text)
        if parts.username is not None or parts.password is not None:
            # The text is not repeated, because it holds a secret.
            raise InvalidRequest.of("engine_url_secret", param="engine")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise _refused(text)
        path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(kind, f"{parts.scheme}://{parts.netloc}{path}")


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """Options of a remote engine. The settings of the same names describe each.

    Attributes:
        model: the name by which the server knows the model; empty: its only one.
        name: value of `capabilities().model`.
        context: most tokens of a sequence; None: what the server and the model allow.
        wait_s: time that a request waits for a server that cannot be reached.
        idle_s: longest silence of a stream after its first token.
        first_s: longest wait for the first token.
        look_s: time between two looks whether the server is there.
    """

    address: RemoteAddress
    model: str = ""
    key: SecretStr | None = None
    name: str = ""
    context: int | None = None
    wait_s: float = 30.0
    idle_s: float = 60.0
    first_s: float = 1800.0
    look_s: float = 5.0

    @classmethod
    def of(cls, settings: Settings, *, name: str, address: str = "") -> RemoteOptions:
        """Reads the options from the settings.

        Args:
            address: in place of the setting `engine`.

        Raises:
            InvalidRequest: the address is none, or the file with the key cannot be read.
        """
        return cls(
            RemoteAddress.parse(address or settings.engine),
            settings.engine_model or "",
            _key(settings),
            name,
            settings.context,
            settings.engine_wait_s,
            settings.step_timeout_s,
            settings.request_timeout_s or 1800.0,
        )


def is_remote(engine: str) -> bool:
    """Returns whether a value of the setting `engine` names a server."""
    return "://" in engine


def _key(settings: Settings) -> SecretStr | None:
    path = settings.engine_key_file
    if path is None:
        return settings.engine_key
    key = _read(path)
    if not key or not key.isascii() or not key.isprintable():
        raise InvalidRequest.of(
            "engine_key_file", path=path, reason="it holds no key", reason_zh="文件中没有密钥"
        )
    return SecretStr(key)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_KEY_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        reason = error.strerror or str(error)
        raise InvalidRequest.of("engine_key_file", path=path, reason=reason, reason_zh=reason) from None


def _refused(text: str) -> InvalidRequest:
    return InvalidRequest.of("engine_address", text=text[:120], param="engine")

"""`ExternalServices`: asks the moderation services of a policy, and says what to do where one fails."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from deepwell.errors import InvalidRequest
from deepwell.safety.external.aliyun import AliyunShape
from deepwell.safety.external.breaker import Breaker
from deepwell.safety.external.openai import OpenAIShape
from deepwell.safety.external.shape import BadAnswer, Credentials, Refused, Shape
from deepwell.safety.external.tencent import TencentShape
from deepwell.safety.findings import Finding, Layer
from deepwell.safety.policy import External

if TYPE_CHECKING:
    import httpx

__all__ = ["ExternalAnswer", "ExternalServices"]

_log = logging.getLogger(__name__)

_MOST_BYTES: Final = 1 << 20
_LONGEST_S: Final = 60.0
_BACK_OFF_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_HERE: Final = ("127.0.0.1", "::1", "localhost")
_SHAPES: Final[Mapping[str, Callable[[Credentials], Shape]]] = {
    "openai": OpenAIShape,
    "aliyun": AliyunShape,
    "tencent": TencentShape,
}


@dataclass(frozen=True, slots=True)
class ExternalAnswer:
    """The answers of all services about one text.

    Attributes:
        findings: each with the rule `external.`, the service's name and its label.
        failed: services that did not answer and whose failure blocks; a decision names them in `failed`.
        passed_over: services that did not answer and whose failure lets pass.
    """

    findings: Sequence[Finding] = ()
    failed: Sequence[str] = ()
    passed_over: Sequence[str] = ()


class _Failed(Exception):
    """Raised for a request that was not answered. `again` tells whether it is worth asking once more."""

    def __init__(self, reason: str, *, again: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.again = again
        self.wait_s = wait_s


class _Service:
    def __init__(self, name: str, settings: External, shape: Shape, breaker: Breaker) -> None:
        self.name = name
        self.settings = settings
        self.shape = shape
        self.breaker = breaker
        self.host = urlsplit(settings.url).netloc


class ExternalServices:
    """The services of a policy. It belongs to one event loop; `close` ends its connections.

    A request has `timeout_ms` for all its attempts together. It is repeated after a lost connection, a 429 and an error of the
    server, each time after a longer pause of random length. An open circuit breaker is a failure without a request.

    Raises:
        InvalidRequest: an environment variable that the policy names is not set, or a URL would send a key in the clear.
    """

    def __init__(
        self,
        services: Mapping[str, External],
        environment: Mapping[str, str],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        breaker: Callable[[], Breaker] = Breaker,
    ) -> None:
        self._services = [
            _Service(name, one, _SHAPES[one.kind](_credentials(name, one, environment)), breaker())
            for name, one in services.items()
        ]
        for one in self._services:
            _check_url(one)
        self._sleep = sleep
        self._client: httpx.AsyncClient | None = None

    def wanted(self, layer: Layer) -> bool:
        """Tells whether a service reads texts of a layer."""
        return any(layer in one.settings.layers for one in self._services)

    async def check(self, text: str, layer: Layer) -> ExternalAnswer:
        """Returns what the services of a layer say of a text. It raises nothing but `CancelledError`."""
        asked = [one for one in self._services if layer in one.settings.layers]
        if not asked or not text.strip():
            return ExternalAnswer()
        answers = await asyncio.gather(*(self._ask(one, text, layer) for one in asked))
        findings: list[Finding] = []
        failed: list[str] = []
        passed_over: list[str] = []
        for one, found in zip(asked, answers, strict=True):
            if found is not None:
                findings += found
            elif one.settings.on_failure == "block":
                failed.append(f"external.{one.name}")
            else:
                passed_over.append(f"external.{one.name}")
        return ExternalAnswer(tuple(findings), tuple(failed), tuple(passed_over))

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(self, service: _Service, text: str, layer: Layer) -> list[Finding] | None:
        """Returns what one service found, or None if it did not answer. Neither text nor answer is logged."""
        if not service.breaker.let_through():
            return None
        ended = service.breaker.abandoned
        try:
            async with asyncio.timeout(service.settings.timeout_ms / 1000):
                found = await self._in_pieces(service, text, layer)
            ended = service.breaker.succeeded
            return found
        except TimeoutError:
            ended = service.breaker.failed
            _log.warning(
                "moderation service %s: no answer within %d ms", service.name, service.settings.timeout_ms
            )
        except _Failed as error:
            # A text that the service refuses for good says nothing of other texts.
            ended = service.breaker.failed if error.again else ended
            _log.warning("moderation service %s: %s", service.name, error)
        except Exception as error:
            _log.warning("moderation service %s: %s", service.name, type(error).__name__)
        finally:
            ended()
        return None

    async def _in_pieces(self, service: _Service, text: str, layer: Layer) -> list[Finding]:
        most = service.shape.most_characters
        found: list[Finding] = []
        for start in range(0, len(text), most):
            piece = text[start : start + most]
            found += [
                Finding(
                    f"external.{service.name}.{one.label}", one.category, start, start + len(piece), one.score
                )
                for one in await self._repeated(service, piece, layer)
            ]
        return found

    async def _repeated(self, service: _Service, text: str, layer: Layer):
        for attempt in range(service.settings.retries + 1):
            try:
                return await self._once(service, text, layer)
            except _Failed as error:
                if not error.again or attempt == service.settings.retries:
                    raise
                pause = random.uniform(0.5, 1.0) * _BACK_OFF_S * 2**attempt  # noqa: S311 - spreads retries
                await self._sleep(min(max(pause, error.wait_s), _LONGEST_WAIT_S))
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, service: _Service, text: str, layer: Layer):
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(follow_redirects=False, timeout=_LONGEST_S)
        sent = service.shape.request(text, layer, service.host)
        url = service.settings.url.rstrip("/") + sent.path
        try:
            async with self._client.stream("POST", url, headers=sent.headers, content=sent.body) as response:
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MOST_BYTES:
                        raise _Failed(f"the answer has more than {_MOST_BYTES} bytes")
        except httpx.TransportError as error:
            raise _Failed(type(error).__name__, again=True) from None
        status = response.status_code
        if status >= 300:
            raise _Failed(
                f"status {status}",
                again=status in _AGAIN,
                wait_s=_seconds(response.headers.get("retry-after")),
            )
        try:
            return service.shape.verdicts(json.loads(body))
        except (ValueError, RecursionError):
            raise _Failed("the answer is not JSON") from None
        except BadAnswer as error:
            raise _Failed(f"the answer is not of its shape: {error}") from None
        except Refused as error:
            raise _Failed(f"refused with {_plain(str(error))}", again=error.again) from None


def _credentials(name: str, settings: External, environment: Mapping[str, str]) -> Credentials:
    found: list[str] = []
    signs = settings.kind != "openai"
    for variable, needed in ((settings.key_env, signs), (settings.secret_env, signs)):
        value = environment.get(variable, "").strip() if variable else ""
        if not value and (variable or needed):
            raise InvalidRequest(
                f"the moderation service {name!r} has no {'key' if not found else 'secret'}",
                fix=f"set the environment variable {variable}"
                if variable
                else "name the environment variables of its key and its secret with key_env and secret_env",
            )
        found.append(value)
    return Credentials(*found)


def _check_url(service: _Service) -> None:
    parts = urlsplit(service.settings.url)
    if parts.username or parts.password or parts.query:
        raise InvalidRequest(
            f"the URL of the moderation service {service.name!r} holds more than a place",
            fix="name the key with key_env, and leave user and query out of the URL",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _HERE):
        raise InvalidRequest(
            f"the moderation service {service.name!r} would be asked in the clear",
            fix="give it an https URL; http is for this machine alone",
        )


def _seconds(header: str | None) -> float:
    try:
        return min(max(float(header or 0), 0.0), _LONGEST_WAIT_S)
    except ValueError:
        return 0.0


def _plain(code: str) -> str:
    """Returns a code of a service as far as a log may show it."""
    return "".join(one for one in code[:64] if one.isalnum() or one in "._-")

"""An OpenAI-compatible server as a target.

NOTE: the client shares the processor with the server that it measures. So it counts bytes of events as they arrive and parses
nothing but the counts of the last one.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from deepwell.errors import InvalidRequest
from deepwell.fleet.simulate.calibration.targets import TargetLimits, Timed

__all__ = ["HttpTarget", "words"]

_EVENT: Final = b"data: {"
_WITHOUT_CHOICE: Final = b'"choices":[]'  # the last event, which carries the usage
_DONE: Final = b"data: [DONE]"
_OVERLAP: Final = max(len(_EVENT), len(_WITHOUT_CHOICE), len(_DONE)) - 1
_TAIL_BYTES: Final = 4096
_ANSWER_BYTES: Final = 8 << 20
_USAGE: Final = re.compile(rb'"(prompt_tokens|completion_tokens|cached_tokens)":\s*(\d{1,12})')
_KV_BLOCKS: Final = re.compile(r"^deepwell_kv_blocks\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
_BLOCK_TOKENS: Final = 16

# Common words, each of which is one token of most vocabularies.
_WORDS: Final = (
    "time year people way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work government number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father power hour "
    "game line end member law car city community name president team minute idea body information back parent face others "
    "level office door health person art war history party result change morning reason research girl guy moment air teacher"
).split()


def words(draw: random.Random, count: int) -> str:
    """Returns a text of so many words that no other one begins like."""
    return " ".join(draw.choices(_WORDS, k=max(1, count)))


class _Answer(asyncio.Protocol):
    """One request, and the times at which events of its answer came."""

    def __init__(self, request: bytes, ended: asyncio.Future[None]) -> None:
        self._request = request
        self._ended = ended
        self._tail = b""
        self._seen = 0
        self._transport: asyncio.Transport | None = None
        self.begin = 0.0
        self.events: list[float] = []
        self.status = b""
        self.last = b""
        self.done = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.begin = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self.status:
            self.status = data[9:12]
        seen = self._tail + data
        # The tail is shorter than any marker, so nothing is counted twice.
        events = _new(seen, self._tail, _EVENT) - _new(seen, self._tail, _WITHOUT_CHOICE)
        self.events += [now] * events
        self._tail = seen[-_OVERLAP:]
        self.last = (self.last + data)[-_TAIL_BYTES:]
        self._seen += len(data)
        if _new(seen, b"", _DONE):
            self.done = True
        if self._transport is not None and (self.done or self._seen > _ANSWER_BYTES):
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _new(seen: bytes, tail: bytes, marker: bytes) -> int:
    return seen.count(marker) - tail.count(marker)


class HttpTarget:
    """A server that streams `/v1/completions` and takes `ignore_eos`, as Deepwell's and vLLM's do."""

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        key: SecretStr | None = None,
        seed: int = 0,
        timeout_s: float = 600,
    ) -> None:
        parts = urlsplit(url)
        self._url = url.rstrip("/")
        self._host = parts.hostname or "127.0.0.1"
        self._secure = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._secure else 80)
        self._netloc, self._path = parts.netloc, parts.path.rstrip("/")
        self._model = model
        self._key = key
        self._draw = random.Random(seed)  # noqa: S311
        self._timeout_s = timeout_s
        self._words_per_token = 1.0  # until an answer tells

    async def limits(self) -> TargetLimits:
        cards = json.loads(await self._get("/v1/models"))["data"]
        names = [str(card["id"]) for card in cards]
        if not names or (self._model and self._model not in names):
            raise self._failed(f"it serves {', '.join(names) or 'no model'}")
        self._model = self._model or names[0]
        length = next(card.get("max_model_len") for card in cards if card["id"] == self._model)
        blocks = _KV_BLOCKS.search(await self._metrics())
        return TargetLimits(
            self._model,
            length if isinstance(length, int) and length > 0 else None,
            int(float(blocks[1])) * _BLOCK_TOKENS if blocks and float(blocks[1]) else None,
        )

    async def stream(self, prompt_tokens: int, answer_tokens: int) -> Timed:
        count = max(1, round(prompt_tokens * self._words_per_token))
        timed = await self.timed(words(self._draw, count), answer_tokens)
        if timed.prompt_tokens > 0:
            self._words_per_token = count / timed.prompt_tokens
        return timed

    async def timed(self, prompt: str, answer_tokens: int) -> Timed:
        """Sends one streamed completion and times its events.

        Raises:
            InvalidRequest: the server refuses it, breaks off, is silent for too long, or answers with fewer or more tokens.
        """
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": answer_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        data = json.dumps(body).encode()
        head = (
            f"POST {self._path}/v1/completions HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n{self._bearer()}Connection: close\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        answer = _Answer(head.encode() + data, ended)
        try:
            async with asyncio.timeout(self._timeout_s):
                transport, _ = await loop.create_connection(
                    lambda: answer, self._host, self._port, ssl=self._secure
                )
                try:
                    await ended
                finally:
                    transport.close()
        except TimeoutError:
            raise self._failed(f"it was silent for {self._timeout_s:g} s") from None
        except OSError as error:
            raise self._failed(str(error)) from None
        usage = {name.decode(): int(number) for name, number in _USAGE.findall(answer.last)}
        if answer.status != b"200" or not answer.done or not answer.events:
            said = answer.last.decode(errors="replace").strip().rpartition("\n")[2]
            raise self._failed(
                f"it answered {answer.status.decode(errors='replace') or 'nothing'}: {said[:200]}"
            )
        if usage.get("completion_tokens") != answer_tokens:
            said = usage.get("completion_tokens", "unknown")
            raise self._failed(f"{answer_tokens} tokens were asked for, and {said} came")
        return Timed(
            answer.begin,
            tuple(answer.events),
            usage.get("prompt_tokens", 0),
            usage.get("cached_tokens", 0),
            usage["completion_tokens"],
        )

    def _bearer(self) -> str:
        return f"Authorization: Bearer {self._key.get_secret_value()}\r\n" if self._key else ""

    async def _get(self, path: str) -> str:
        import httpx

        headers = {"authorization": f"Bearer {self._key.get_secret_value()}"} if self._key else {}
        try:
            async with httpx.AsyncClient(headers=headers, timeout=30.0, trust_env=False) as http:
                found = await http.get(self._url + path)
        except httpx.ConnectError as error:
            raise InvalidRequest.of("simulate_no_server", url=self._url, reason=str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(str(error) or type(error).__name__) from None
        if found.status_code != 200:
            raise self._failed(f"{path} answered {found.status_code}")
        return found.text

    async def _metrics(self) -> str:
        """Returns the metrics; none if the server keeps them to itself."""
        try:
            return await self._get("/metrics")
        except InvalidRequest:
            return ""

    def _failed(self, reason: str) -> InvalidRequest:
        return InvalidRequest.of("simulate_stream", url=self._url, reason=reason)

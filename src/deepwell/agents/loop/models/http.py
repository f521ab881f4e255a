"""`HttpModel`: a model of any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from deepwell.agents.loop.model import Choice, Message, ModelTurn
from deepwell.agents.loop.models.wire import ModelOptions, chat_body, error_of, turn_of
from deepwell.dialogue.tools import FunctionTool
from deepwell.errors import DeepwellError

if TYPE_CHECKING:
    import httpx
    from pydantic import SecretStr

__all__ = ["HttpModel"]

_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
_LONGEST_PAUSE_S: Final = 30.0
_CONNECT_S: Final = 5.0
_MOST_BYTES: Final = 32 * 2**20


class HttpModel:
    """Asks `/v1/chat/completions`. A server that is busy or starting is asked again a few times.

    Args:
        url: the server's address, without `/v1`.
        model: one of its models.
        key: its API key; None: it needs none.
        options: how the model writes.
        transport: carries the requests; None: the network.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: SecretStr | None = None,
        options: ModelOptions | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx

        headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        timeout = httpx.Timeout(None, connect=_CONNECT_S)  # the loop bounds the time of a turn
        self._url, self._model, self._options = url, model, options or ModelOptions()
        # A proxy of the environment has no business here.
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, trust_env=False, transport=transport
        )

    @property
    def name(self) -> str:
        """The name of the model."""
        return self._model

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[FunctionTool], *, choice: Choice, max_tokens: int
    ) -> ModelTurn:
        """Returns the next turn. Being cancelled, it hangs up, which ends the generation.

        Raises:
            TurnRefused, ContextLengthExceeded: the server says so.
            DeepwellError: nobody answers, or not with a turn.
        """
        body = chat_body(self._model, messages, tools, choice, max_tokens, self._options)
        data = json.dumps(body, ensure_ascii=False).encode()
        pauses_s = list(_PAUSES_S)
        while True:
            status, wait_s, reply = await self._post(data)
            if status == 200:
                return turn_of(reply)
            if status not in (429, 503) or not pauses_s:
                raise error_of(status, reply)
            await asyncio.sleep(min(_LONGEST_PAUSE_S, max(pauses_s.pop(0), wait_s)))

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Returns the model."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connections."""
        await self.close()

    async def _post(self, data: bytes) -> tuple[int, float, bytes]:
        """Returns the status, the seconds after which to ask again, and the body, which is read up to a bound."""
        import httpx

        request = {"content": data, "headers": {"content-type": "application/json"}}
        parts: list[bytes] = []
        try:
            async with self._http.stream("POST", "/v1/chat/completions", **request) as response:
                async for part in response.aiter_bytes():
                    parts.append(part)
                    if sum(map(len, parts)) > _MOST_BYTES:
                        raise DeepwellError(f"the answer of {self._url} has more than {_MOST_BYTES} bytes")
                try:
                    wait_s = float(response.headers.get("retry-after", 0))
                except ValueError:  # a date
                    wait_s = 0.0
                return response.status_code, wait_s, b"".join(parts)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise DeepwellError.of(
                "agent_no_server", url=self._url, error=f"{type(error).__name__}: {error}"
            ) from None

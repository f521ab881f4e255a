"""`Servers`: makes running servers serve an adapter, and checks that they do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepwell.errors import DeepwellError

__all__ = ["ByAlias", "Servers"]

_CONNECT_S, _LOAD_S = 5.0, 120.0


class ByAlias:
    """The servers of one database, which load what their aliases mean, and candidates, by themselves.

    A server that cannot load a candidate gives its users the model of before and says so in its log.
    """

    async def __call__(self, name: str, folder: Path) -> None:
        """Returns at once: the roll-out tells the servers."""


class Servers:
    """The servers that answer for an alias.

    Args:
        urls: their addresses, without `/v1`.
        folder: the folder that adapters are made in, for what is said to mend.
        key: a key with the scope `admin`, which shares adapters with all tenants; None: the servers have no keys.
    """

    def __init__(self, urls: Sequence[str], folder: Path, key: str | None = None) -> None:
        self._urls = urls
        self._folder = folder
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def __call__(self, name: str, folder: Path) -> None:
        """Loads an adapter on each server that does not serve it.

        Raises:
            DeepwellError: one does not serve it, and cannot load it.
        """
        for url in self._urls:
            await self._ensure(url, name, folder)

    async def _ensure(self, url: str, name: str, folder: Path) -> None:
        import httpx

        timeout = httpx.Timeout(_LOAD_S, connect=_CONNECT_S)
        # A proxy of the environment has no business here.
        try:
            async with httpx.AsyncClient(
                base_url=url, headers=self._headers, timeout=timeout, trust_env=False
            ) as http:
                if name in await _models(http):
                    return
                body: dict[str, Any] = {"lora_name": name, "lora_path": str(folder), "shared": True}
                answer = await http.post("/v1/load_lora_adapter", json=body)
                if answer.status_code == 200 and name in await _models(http):
                    return
                reason = reason_zh = f"HTTP {answer.status_code} {_said(answer)}".strip()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            reason, reason_zh = f"no answer ({type(error).__name__})", f"没有响应（{type(error).__name__}）"
        raise DeepwellError.of(
            "improve_unserved",
            url=url,
            name=name,
            path=str(folder),
            folder=str(self._folder),
            reason=reason,
            reason_zh=reason_zh,
        )


async def _models(http: Any) -> set[str]:
    answer = await http.get("/v1/models")
    try:
        return {str(one["id"]) for one in answer.json()["data"]}
    except (ValueError, KeyError, TypeError):
        return set()


def _said(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return ""

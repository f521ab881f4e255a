"""`fetch`: the bytes at an address of the web, through the guard of the sources of knowledge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from deepwell.errors import InvalidRequest, SourceError
from deepwell.version import deepwell_version

if TYPE_CHECKING:
    import httpx

__all__ = ["TIMEOUT_S", "fetch"]

TIMEOUT_S: Final = 20.0
"""Seconds that an address may take, redirects included."""

_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 3


async def fetch(url: str, most_bytes: int, hosts: Sequence[str], param: str) -> bytes:
    """Returns the bytes at an address. Private addresses are reached only under the hosts that the server allows.

    Args:
        hosts: see `AllowList`.
        param: parameter of the request that names the address.

    Raises:
        InvalidRequest: the address must not be reached, does not answer in time, or has too much.
    """
    import httpx

    from deepwell.knowledge.sources.web.guard import Guard, GuardedTransport

    try:
        guard = Guard(hosts)
        async with (
            asyncio.timeout(TIMEOUT_S),
            httpx.AsyncClient(
                transport=GuardedTransport(guard),
                headers={"user-agent": f"Deepwell/{deepwell_version()}", "accept-encoding": "identity"},
                follow_redirects=False,
                trust_env=False,
                timeout=TIMEOUT_S,
            ) as client,
        ):
            for _ in range(1 + _MOST_REDIRECTS):
                here = guard.check_url(url)
                async with client.stream("GET", here) as answer:
                    location = answer.headers.get("location", "")
                    if answer.status_code in _REDIRECTS and location:
                        url = urljoin(str(here), location)
                        continue
                    return await _body(answer, most_bytes, param)
        raise _unread(f"it redirects more than {_MOST_REDIRECTS} times", param)
    except SourceError as error:
        raise _unread(error.message, param) from None
    except TimeoutError:
        raise _unread(f"it did not answer within {TIMEOUT_S:g} s", param) from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
        raise _unread(str(error)[:200] or type(error).__name__, param) from None


async def _body(answer: httpx.Response, most_bytes: int, param: str) -> bytes:
    if answer.status_code != 200:
        raise _unread(f"it answers {answer.status_code}", param)
    data = bytearray()
    async for part in answer.aiter_raw():
        data += part
        if len(data) > most_bytes:
            raise InvalidRequest.of("attachment_large", megabytes=most_bytes >> 20, param=param)
    return bytes(data)


def _unread(reason: str, param: str) -> InvalidRequest:
    return InvalidRequest.of("attachment_unfetched", reason=reason, param=param)

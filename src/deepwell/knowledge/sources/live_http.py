"""`LiveHTTP`: a search endpoint that is asked at query time."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from deepwell.errors import InvalidRequest, SourceError
from deepwell.knowledge.documents import Passage
from deepwell.knowledge.sources.live import Result, passages_of
from deepwell.knowledge.sources.options import LiveHTTPOptions
from deepwell.knowledge.sources.web.fetch import read_body
from deepwell.knowledge.sources.web.guard import Guard, GuardedTransport
from deepwell.version import deepwell_version

__all__ = ["LiveHTTP", "pointed"]


class LiveHTTP:
    """An HTTP endpoint. The question goes into its URL (GET), or into a JSON body (POST).

    Redirects are not followed: an endpoint has one address.

    Args:
        name: its name.
        address: URL in which `{question}` and `{limit}` are replaced, percent-encoded.
        options: body, headers, and JSON pointers (RFC 6901) of the results.
        guard: decides which addresses may be reached.

    Raises:
        InvalidRequest: neither the URL nor the body has a place for the question, or the body is no JSON.
        RefusedAddress: the URL is not harmless.
    """

    def __init__(self, name: str, address: str, options: LiveHTTPOptions, guard: Guard) -> None:
        self.name = name
        self._address = address
        self._options = options
        self._guard = guard
        self._body = _parsed(name, options.body) if options.body else None
        if "{question}" not in address and "{question}" not in options.body:
            raise InvalidRequest(
                f"live source {name} has no place for the question",
                fix="add ?q={question} to its URL, or give a body",
            )
        if "{question}" in urlsplit(address).netloc:
            raise InvalidRequest(
                f"live source {name} takes its host from the question", fix="put {question} behind it"
            )
        for pointer in (options.list, options.text, options.title, options.link, options.score):
            if pointer and not pointer.startswith("/"):
                raise InvalidRequest(
                    f"{pointer!r} is no JSON pointer of live source {name}",
                    fix=f"write /{pointer}, as in /hits/0/text",
                )
        guard.check_url(_filled(address, "x", 1))
        self._client = httpx.AsyncClient(
            transport=GuardedTransport(guard),
            headers={"user-agent": f"Deepwell/{deepwell_version()}", "accept-encoding": "gzip"},
            follow_redirects=False,
            trust_env=False,
            timeout=options.timeout_s,
        )

    async def ask(self, question: str, limit: int) -> list[Passage]:
        """Sends the question; see `LiveSource`."""
        options = self._options
        if not question.strip(" ."):
            return []  # `..` in a path would be another endpoint
        url = self._guard.check_url(_filled(self._address, question, limit))
        body = None if self._body is None else json.dumps(_replaced(self._body, question, limit)).encode()
        headers = {"accept": "application/json", **options.headers}
        if body is not None:
            headers.setdefault("content-type", "application/json")
        try:
            async with asyncio.timeout(options.timeout_s):
                method = "GET" if body is None else "POST"
                async with self._client.stream(method, url, headers=headers, content=body) as response:
                    if response.status_code != 200:
                        raise SourceError(
                            f"live source {self.name} answers {response.status_code} {response.reason_phrase}".rstrip(),
                            fix="check its URL and headers",
                        )
                    answer = await read_body(
                        response, f"the answer of live source {self.name}", options.max_bytes
                    )
        except (TimeoutError, httpx.TimeoutException):
            raise SourceError(
                f"live source {self.name} did not answer within {options.timeout_s:g} s",
                fix="raise timeout_s",
            ) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            reason = str(error) or type(error).__name__
            raise SourceError(
                f"live source {self.name} cannot be reached: {reason}", fix="check its URL"
            ) from None
        return passages_of(self.name, self._results(answer), limit, options.max_chars)

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    def _results(self, answer: bytes) -> list[Result]:
        options = self._options
        try:
            parsed = json.loads(answer)
        except (ValueError, RecursionError):
            raise SourceError(f"live source {self.name} answers no JSON", fix="check its URL") from None
        found = pointed(parsed, options.list)
        if not isinstance(found, list):
            raise SourceError(
                f"live source {self.name} has no list at {options.list or 'the root of its answer'}",
                fix="correct its option: list=/path/to/results",
            )
        results = [self._result(one) for one in found]
        if results and not any(result.text for result in results):
            raise SourceError(
                f"no result of live source {self.name} has a text at {options.text}",
                fix="correct its option: text=/path/within/a/result",
            )
        return results

    def _result(self, one: Any) -> Result:
        options = self._options

        def text(pointer: str) -> str:
            found = pointed(one, pointer) if pointer else None
            if isinstance(found, list):  # highlights, paragraphs
                return "\n".join(part for part in found if isinstance(part, str))
            return str(found) if isinstance(found, str | int | float) and not isinstance(found, bool) else ""

        score = pointed(one, options.score) if options.score else None
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            score = None
        return Result(
            text=pointed(one, "") if not options.text and isinstance(one, str) else text(options.text),
            title=text(options.title),
            link=text(options.link),
            score=None if score is None else float(score),
        )


def pointed(value: Any, pointer: str) -> Any:
    """Returns the part of a JSON value that a pointer names (RFC 6901); None if there is none."""
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping):
            value = value.get(token)
        elif isinstance(value, list) and token.isdecimal() and len(token) < 10 and int(token) < len(value):
            value = value[int(token)]
        else:
            return None
    return value


def _parsed(name: str, body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise InvalidRequest(
            f"the body of live source {name} is no JSON: {error}",
            fix="""write body='{"query": "{question}"}'""",
        ) from None


def _filled(address: str, question: str, limit: int) -> str:
    # The question may hold `{limit}` itself: it goes in last.
    return address.replace("{limit}", str(limit)).replace("{question}", quote(question, safe=""))


def _replaced(value: Any, question: str, limit: int) -> Any:
    """Returns a JSON value with the question in its strings. A string that is `{limit}` alone becomes a number."""
    if isinstance(value, str):
        if value == "{limit}":
            return limit
        return value.replace("{limit}", str(limit)).replace("{question}", question)
    if isinstance(value, Mapping):
        return {key: _replaced(part, question, limit) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, question, limit) for part in value]
    return value

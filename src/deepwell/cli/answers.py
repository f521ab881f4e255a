"""Answers for `chat` and `ask`: from a running server that serves the model, else from a model loaded here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from deepwell.cli.output import console
from deepwell.errors import ContextLengthExceeded, DeepwellError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from deepwell.models.store.sampling import SamplingDefaults
    from deepwell.settings import Settings

__all__ = [
    "Answers",
    "Asked",
    "LocalAnswers",
    "Part",
    "RemoteAnswers",
    "cut_note",
    "last_of",
    "open_answers",
    "warn_of_language",
]

_CONNECT_SECONDS = 0.5  # to a server on this machine, which answers at once or is not there


class ServerFailed(DeepwellError):
    """A server that answered with an error, or stopped answering."""

    type = "server_failed"


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation to continue."""

    messages: Sequence[dict[str, str]]
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The end of an answer, and how fast it came."""

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_seconds: float
    tokens_per_second: float | None  # after the first token; unset for a single token


@dataclass(frozen=True, slots=True)
class Part:
    """Text as it comes. The last part carries the report."""

    text: str
    report: Report | None = None


class Answers(Protocol):
    """Answers conversations with one model. Closing the iterator ends the answer."""

    model: str
    where: str

    def stream(self, asked: Asked) -> Generator[Part, None, None]: ...

    def close(self) -> None: ...


def last_of(part: Part | None) -> dict[str, Any]:
    """The report of the last part, as JSON."""
    return asdict(part.report) if part and part.report else {}


def cut_note(part: Part | None) -> str:
    """Returns the words about an answer that did not come to its end; empty if it did."""
    if part is None or part.report is None or part.report.finish_reason != "length":
        return ""
    return f"(cut off after {part.report.completion_tokens} tokens, by --max-tokens or the context)"


def warn_of_language(model: str, question: str) -> bool:
    """Tells somebody who asks in Chinese that the model does not know it, on standard error, and whether it did."""
    from deepwell.models.store.languages import chinese_note, is_chinese

    note = chinese_note(model) if is_chinese(question) else ""
    if note:
        console(stderr=True).print(note, style="yellow", soft_wrap=True)
    return bool(note)


class _Clock:
    """Times one answer."""

    def __init__(self) -> None:
        self._begin = perf_counter()
        self._first = 0.0

    def tick(self) -> None:
        self._first = self._first or perf_counter()

    def report(self, finish_reason: str, prompt: int, cached: int, completion: int) -> Report:
        now = perf_counter()
        first = self._first or now
        speed = (completion - 1) / (now - first) if completion > 1 and now > first else None
        return Report(
            finish_reason,
            prompt,
            cached,
            completion,
            round(first - self._begin, 4),
            speed and round(speed, 1),
        )


class RemoteAnswers:
    """Answers of a server, through its API."""

    def __init__(self, url: str, model: str, api_keys: Sequence[SecretStr] = ()) -> None:
        import httpx

        self.model = model
        self.where = url
        headers = {"authorization": f"Bearer {api_keys[0].get_secret_value()}"} if api_keys else {}
        # The first token of a long prompt may take minutes; a proxy of the environment has no business here.
        timeout = httpx.Timeout(600, connect=_CONNECT_SECONDS)
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def serves(self) -> bool:
        """Tells whether a server is there and serves the model."""
        import httpx

        try:
            response = self._http.get("/v1/models", timeout=_CONNECT_SECONDS)
            return response.status_code == 200 and any(
                card["id"] == self.model for card in response.json()["data"]
            )
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False

    def readiness(self) -> tuple[bool, str]:
        """Tells whether the server takes requests, and what it says of it."""
        import httpx

        try:
            response = self._http.get("/readyz", timeout=_CONNECT_SECONDS)
            body = response.json()
            if response.status_code != 200:
                return False, str(body["error"]["message"])
            restarts = int(body.get("engine_restarts", 0))
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            return False, f"it does not say whether it is ready: {error}"
        return True, f"ready, its engine restarted {restarts} times" if restarts else "ready"

    def stream(self, asked: Asked) -> Generator[Part, None, None]:
        import httpx

        body = {"model": self.model, "messages": list(asked.messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        given = {"max_tokens": asked.max_tokens, "temperature": asked.temperature, "seed": asked.seed}
        body |= {name: value for name, value in given.items() if value is not None}
        clock = _Clock()
        finish_reason = ""
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    response.read()
                    raise _error_of(response.text)
                for line in response.iter_lines():
                    data = line.removeprefix("data: ")
                    if not data or data == "[DONE]":
                        continue
                    chunk = json.loads(data)
                    if "error" in chunk:
                        raise _error_of(data)
                    for choice in chunk["choices"]:
                        finish_reason = choice["finish_reason"] or finish_reason
                        if text := choice["delta"].get("content"):
                            clock.tick()
                            yield Part(text)
                    if usage := chunk.get("usage"):
                        cached = usage["prompt_tokens_details"]["cached_tokens"]
                        counts = (usage["prompt_tokens"], cached, usage["completion_tokens"])
                        yield Part("", clock.report(finish_reason, *counts))
        except httpx.HTTPError as error:
            raise ServerFailed(
                f"{self.where} stopped answering: {error}", fix="is it still running?"
            ) from None

    def close(self) -> None:
        self._http.close()


def _error_of(body: str) -> DeepwellError:
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return ServerFailed(f"the server answered what is no OpenAI error: {body[:200]}")
    return ContextLengthExceeded(message) if code == "context_length_exceeded" else ServerFailed(message)


class LocalAnswers:
    """Answers of a model in this process."""

    where = "this process"

    def __init__(self, engine: Any, codec: Any, model: str, defaults: SamplingDefaults | None = None) -> None:
        self.model = model
        self._defaults = defaults.parameters() if defaults else {}
        self._engine = engine
        self._codec = codec

    def stream(self, asked: Asked) -> Generator[Part, None, None]:
        from deepwell.dialogue.completion import Choice, complete_sync
        from deepwell.engine.protocol import GenerateRequest, SamplingParams

        prompt = self._codec.encode_chat(asked.messages)
        left = self._engine.capabilities().max_model_len - len(prompt)
        if left < (asked.max_tokens or 1):
            raise ContextLengthExceeded(
                f"the conversation has {len(prompt)} tokens and {asked.max_tokens or 1} were asked for, "
                f"but the context holds {left + len(prompt)}",
                fix="shorten it, or lower --max-tokens",
            )
        params = SamplingParams(max_tokens=asked.max_tokens or left, seed=asked.seed, **self._defaults)
        if asked.temperature is not None:
            params = replace(params, temperature=asked.temperature)
        request = GenerateRequest(uuid.uuid4().hex, prompt, params)
        clock = _Clock()
        with closing(self._engine.generate_sync(request)) as deltas:
            for update in complete_sync(deltas, self._codec, Choice(0, request)):
                clock.tick()
                counts = update.counts
                report = None
                if update.finish_reason:
                    report = clock.report(
                        update.finish_reason, counts.prompt, counts.cached, counts.completion
                    )
                yield Part(update.text, report)

    def close(self) -> None:
        self._engine.close()


def open_answers(settings: Settings) -> Answers:
    """The configured server if it serves the configured model, else the model loaded here.

    Raises:
        InvalidRequest: no chat is possible with it.
    """
    from deepwell.server.http.listen import local_url

    remote = RemoteAnswers(local_url(settings.host, settings.port), settings.model, settings.api_keys)
    if remote.serves():
        return remote
    remote.close()
    from deepwell.cli.opening import open_model, plan_model
    from deepwell.cli.progress import packing

    planned = plan_model(settings)
    with packing(shown=True) as progress:
        opened = open_model(planned, progress)
    return LocalAnswers(opened.engine, opened.codec, opened.name, opened.defaults)

"""Answers for `chat` and `ask`: from a running server that serves the model, else from a model loaded here."""

from __future__ import annotations

import json
import uuid
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from deepwell.cli.output import console
from deepwell.cli.servers import connect_seconds
from deepwell.errors import ContextLengthExceeded, DeepwellError, ModelNotFound
from deepwell.messages import language, nearest, say

if TYPE_CHECKING:
    from pydantic import SecretStr

    from deepwell.engine.protocol import Window
    from deepwell.knowledge.context.fitting.ledger import Ledger
    from deepwell.knowledge.context.fitting.local import LocalFitter
    from deepwell.knowledge.context.fitting.policy import ContextPolicy
    from deepwell.models.store.sampling import SamplingDefaults
    from deepwell.settings import Settings

__all__ = [
    "HERE",
    "Answers",
    "Asked",
    "LocalAnswers",
    "Part",
    "RemoteAnswers",
    "context_note",
    "cut_note",
    "last_of",
    "open_answers",
    "policy_of",
    "warn_of_language",
]

HERE = "this process"  # where answers come from without a server


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
    top_p: float | None = None
    repetition_penalty: float | None = None
    policy: ContextPolicy | None = None  # None: the server's; here: strict

    @property
    def sampling(self) -> dict[str, float]:
        """The sampling parameters that were given."""
        named = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Report:
    """The end of an answer, and how fast it came."""

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_seconds: float
    tokens_per_second: float | None  # after the first token; unset for a single token
    context: dict[str, Any] | None = None  # what became of the prompt's tokens; None: the policy is strict


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
    found = asdict(part.report) if part and part.report else {}
    return {name: value for name, value in found.items() if name != "context" or value is not None}


def cut_note(part: Part | None) -> str:
    """Returns the words about an answer that did not come to its end; empty if it did."""
    if part is None or part.report is None or part.report.finish_reason != "length":
        return ""
    return say("answer_cut", count=part.report.completion_tokens)


def warn_of_language(answers: Answers, question: str, verb: str) -> bool:
    """Tells somebody who asks in Chinese that the model does not know it, on standard error, and whether it did.

    Args:
        verb: command that asks another model, where the model is not a server's.
    """
    from deepwell.models.store.languages import chinese_note, is_chinese

    verb = verb if answers.where == HERE else "serve"
    note = chinese_note(answers.model, verb) if is_chinese(question) else ""
    if note:
        console(stderr=True).print(note, style="yellow", soft_wrap=True)
    return bool(note)


def context_note(part: Part | None, *, chat: bool = False) -> str:
    """Returns the words about what became of the prompt's tokens; empty if all were kept."""
    if part is None or part.report is None or part.report.context is None:
        return ""
    ledger = part.report.context
    if ledger["mechanism"] == "none":
        return ""
    read = ledger["kept_tokens"] + ledger["compressed_tokens"] + ledger["recalled_tokens"]
    return say(
        "chat_context_fitted" if chat else "context_fitted",
        original=ledger["original_tokens"],
        read=read,
        kept=ledger["kept_tokens"],
        compressed=ledger["compressed_tokens"],
        recalled=ledger["recalled_tokens"],
        gone=ledger["dropped_tokens"] + ledger["forgotten_tokens"],
        mechanism=ledger["mechanism"],
    )


class _Clock:
    """Times one answer."""

    def __init__(self) -> None:
        self._begin = perf_counter()
        self._first = 0.0

    def tick(self) -> None:
        self._first = self._first or perf_counter()

    def report(
        self,
        finish_reason: str,
        prompt: int,
        cached: int,
        completion: int,
        context: dict[str, Any] | None = None,
    ) -> Report:
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
            context,
        )


class RemoteAnswers:
    """Answers of a server, through its API."""

    def __init__(self, url: str, model: str, api_keys: Sequence[SecretStr] = ()) -> None:
        import httpx

        self.model = model
        self.where = url
        headers = {"authorization": f"Bearer {api_keys[0].get_secret_value()}"} if api_keys else {}
        headers["accept-language"] = language()  # of errors
        # The first token of a long prompt may take minutes; a proxy of the environment has no business here.
        timeout = httpx.Timeout(600, connect=connect_seconds(url))
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def stream(self, asked: Asked) -> Generator[Part, None, None]:
        import httpx

        body = {"model": self.model, "messages": list(asked.messages), "stream": True}
        body["stream_options"] = {"include_usage": True}
        given = {"max_tokens": asked.max_tokens, "seed": asked.seed}
        body |= {name: value for name, value in given.items() if value is not None} | asked.sampling
        clock = _Clock()
        finish_reason = ""
        try:
            headers = {} if asked.policy is None else {"x-context-policy": asked.policy}
            with self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as response:
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
                        details = usage["prompt_tokens_details"]
                        counts = (
                            usage["prompt_tokens"],
                            details["cached_tokens"],
                            usage["completion_tokens"],
                        )
                        yield Part("", clock.report(finish_reason, *counts, details.get("context")))
        except httpx.HTTPError as error:
            raise ServerFailed.of("server_stopped", url=self.where, reason=error) from None

    def close(self) -> None:
        self._http.close()


def _error_of(body: str) -> DeepwellError:
    try:
        error = json.loads(body)["error"]
        message, code = str(error["message"]), error.get("code")
    except (ValueError, KeyError, TypeError):
        return ServerFailed(f"the server answered what is no OpenAI error: {body[:200]}")
    if code == "context_length_exceeded":
        # A server names its policies by the header; a command sends it where the variable is set.
        fix = say("conversation_refused") if "x-context-policy" in message else ""
        return ContextLengthExceeded(message, fix=fix)
    return ServerFailed(message)


class LocalAnswers:
    """Answers of a model in this process."""

    where = HERE

    def __init__(
        self,
        engine: Any,
        codec: Any,
        model: str,
        defaults: SamplingDefaults | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        """Answers with a loaded model.

        Args:
            settings: name the embedder that recalls passages; None: words alone choose what a long conversation keeps.
        """
        self.model = model
        self._settings = settings
        self._fitter: LocalFitter | None = None
        self._defaults = defaults.parameters() if defaults else {}
        self._engine = engine
        self._codec = codec

    def stream(self, asked: Asked) -> Generator[Part, None, None]:
        from deepwell.dialogue.completion import Choice, complete_sync
        from deepwell.engine.protocol import GenerateRequest, SamplingParams

        prompt, ledger, window = self._prompt(asked)
        context = self._engine.capabilities().max_model_len
        left = context if window is not None else context - len(prompt)
        if window is None and left < 1:
            raise ContextLengthExceeded.of("conversation_fills_context", prompt=len(prompt), window=context)
        if window is None and left < (asked.max_tokens or 1):
            raise ContextLengthExceeded.of(
                "conversation_too_long", prompt=len(prompt), completion=asked.max_tokens or 1, window=context
            )
        params = SamplingParams(max_tokens=asked.max_tokens or left, seed=asked.seed, **self._defaults)
        params = replace(params, **asked.sampling)
        request = GenerateRequest(uuid.uuid4().hex, prompt, params, window=window)
        clock = _Clock()
        with closing(self._engine.generate_sync(request)) as deltas:
            for update in complete_sync(deltas, self._codec, Choice(0, request)):
                clock.tick()
                counts = update.counts
                report = None
                if update.finish_reason:
                    report = clock.report(
                        update.finish_reason,
                        counts.prompt,
                        counts.cached,
                        counts.completion,
                        None if ledger is None else ledger.as_dict(),
                    )
                yield Part(update.text, report)

    def _prompt(self, asked: Asked) -> tuple[list[int], Ledger | None, Window | None]:
        """Returns the tokens of a conversation, fitted to the context if its policy allows that.

        Raises:
            ContextLengthExceeded: what always stays whole does not fit.
        """
        if asked.policy is None or asked.policy == "strict":
            return self._codec.encode_chat(asked.messages), None, None
        from deepwell.knowledge.context.fitting.local import LocalFitter
        from deepwell.knowledge.context.fitting.policy import fit_options

        if self._fitter is None:
            settings, runs = self._settings, self._engine.capabilities()
            self._fitter = LocalFitter(
                self._codec,
                runs.max_model_len,
                embedder=None if settings is None else settings.knowledge_embedder,
                models_dir=None if settings is None else settings.models_dir,
                windows=True,
                options=fit_options(runs.weights_bytes),
            )
        fitted = self._fitter.fit(asked.messages, asked.policy, max_tokens=asked.max_tokens)
        return self._codec.encode_chat(fitted.messages), fitted.ledger, fitted.window

    def close(self) -> None:
        if self._fitter is not None:
            self._fitter.close()
        self._engine.close()


def policy_of(settings: Settings, default: ContextPolicy | None) -> ContextPolicy | None:
    """Returns the setting `context_policy`; `default` where nobody has set it."""
    return default if settings.origins()["context_policy"] == "default" else settings.context_policy


def open_answers(settings: Settings) -> Answers:
    """Returns the answers of the running server, or of the model loaded here if no server serves it.

    A model that nobody named is the server's own. A server that was named with `--url` or `--port` has to be there.

    Raises:
        InvalidRequest: no chat is possible with it.
        ServerFailed: nobody answers at the URL or port that was named, or what answers is no OpenAI-compatible server.
        InvalidKey: the server asks for a key, or does not know the one that it was given.
        ModelNotFound: the server that was named does not serve the model.
    """
    remote = _remote_answers(settings)
    if remote is not None:
        return remote
    from deepwell.cli.progress import packing
    from deepwell.dialogue.opening import open_model, plan_model

    planned = plan_model(settings)
    with packing(shown=True) as progress:
        opened = open_model(planned, progress)
    return LocalAnswers(opened.engine, opened.codec, opened.name, opened.defaults, settings=settings)


def _remote_answers(settings: Settings) -> RemoteAnswers | None:
    """Returns the answers of the server, or None where the model is to be loaded here."""
    from deepwell.cli.servers import client_key, examine_server, require_key, server_url

    origins = settings.origins()
    is_pinned = settings.url is not None or origins["port"].startswith("flag")
    url, key = server_url(settings), client_key(settings)
    found = examine_server(url, key)
    if is_pinned and found.state == "absent":
        raise ServerFailed.of("server_absent", url=url, port=urlsplit(url).port or 80)
    if is_pinned and found.state == "foreign":
        raise ServerFailed.of("server_foreign", url=url)
    if is_pinned or found.is_deepwell:
        require_key(found, key)
    keys = [key] if key else []
    if found.models and origins["model"] == "default":
        return RemoteAnswers(url, found.own_model, keys)
    if settings.model in found.models:
        return RemoteAnswers(url, settings.model, keys)
    if is_pinned and found.models:
        served = nearest(settings.model, found.models) or found.models[0]
        raise ModelNotFound.of("server_other_model", url=url, model=settings.model, served=served)
    if is_pinned:
        raise ModelNotFound.of("server_without_models", url=url)
    return None

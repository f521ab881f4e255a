"""Answers that end within a value, at every kind of end and through every route of a server in this process."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.model import ServedModel
from deepwell.dialogue.text import Codec
from deepwell.engine.protocol import Delta, GenerateRequest, TokenLogprob
from deepwell.models.text.chat_template import ChatTemplate
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.safety.guard import Guard
from deepwell.safety.normalise import normalised
from deepwell.safety.policy import Policy
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.scanner import StreamScanner
from deepwell.safety.terms.lists import starter_list
from deepwell.server.app import create_app
from deepwell.server.build import build_context
from deepwell.server.options import GuardOptions, ServerOptions
from deepwell_bench.workers.paced import PacedEngine
from deepwell_bench.workloads.knowledge.libreoffice_help import help_passages
from deepwell_bench.workloads.safety.broken_values import SHA256, BrokenValue, broken_values, digest
from deepwell_bench.workloads.safety.personal_texts import number_texts

__all__ = ["ENDS", "bench_endings"]

End = Literal["stop string", "limit", "own end", "disconnect", "call", "content filter"]
ENDS: Final[tuple[End, ...]] = ("stop string", "limit", "own end", "disconnect", "call", "content filter")
_POLICY: Final = "strict"
_QUESTION: Final = "What did they say?"
_TEMPLATE: Final = (
    "{# <think> #}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
)
_STEP: Final = 8
"""Tokens of one step of the engine, as where drafts are accepted."""
_TOKENS: Final = 2000
_PATIENCE_S: Final = 20.0
_PASSAGES: Final = 1000
_WINDOW: Final = 400
_SPARED: Final = 8
"""Passages whose ends are sampled, by the token, beside their own."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A value, the end of the answer that holds it, and whether the answer is streamed."""

    value: BrokenValue
    end: End
    stream: bool
    thinks: bool


class _Script(PacedEngine):
    """An engine that writes what it is told: some text, then more, or waits behind the first until the client has gone."""

    def __init__(self, codec: Codec, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, first_s=0, token_s=0, tokens=1)
        self._codec = codec
        self._said: list[int] = []
        self._waits = False
        self.reached = asyncio.Event()

    def told(self, said: str, more: str, *, waits: bool) -> int:
        """Sets what the next answer says, and returns the number of tokens of its first part."""
        first = self._codec.encode_text(said)
        self._said = [*first, *self._codec.encode_text(more)]
        self._waits, self.reached = waits, asyncio.Event()
        return len(first)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Delta]:  # type: ignore[override]
        """Yields the text, some tokens a step."""
        said = self._said[: request.params.max_tokens]
        scored = request.params.logprobs is not None
        for at in range(0, len(said), _STEP):
            tokens = tuple(said[at : at + _STEP])
            last = at + _STEP >= len(said)
            finish = None if not last or self._waits else "length" if len(said) < len(self._said) else "stop"
            yield Delta(
                request.request_id,
                tokens,
                tuple(TokenLogprob(one, -0.5, 1, ((one, -0.5),)) for one in tokens) if scored else (),
                finish_reason=finish,
                prompt_tokens=len(request.prompt),
                completion_tokens=at + len(tokens),
            )
            await asyncio.sleep(0)
        if self._waits:
            self.reached.set()
            await asyncio.sleep(_PATIENCE_S)


def bench_endings(report: Report, model: Path) -> dict[str, Any]:
    """Returns how many values can be recovered from what leaves, and how many ordinary endings are changed.

    A key is recoverable if more than 4 characters behind its fixed beginning leave in any member of an answer, the entries of
    log probabilities and the model's reasoning among them; a number if fewer than 1,000 others begin alike.
    """
    values = broken_values()
    if digest(values) != SHA256:
        raise RuntimeError("the values are not those that were frozen")
    with tempfile.TemporaryDirectory(prefix="bench-endings-") as folder:
        began = time.perf_counter()
        found = asyncio.run(_run(model, Path(folder), values))
        took = time.perf_counter() - began
        changed, endings, examples = _changed(Path(folder))
    leaks = Counter((route, case.end) for route, case in found.leaks)
    report.table(
        f"Answers that leave more of a value than they may, of {found.answers}",
        ("route", *ENDS),
        [(route, *(str(leaks[route, end]) for end in ENDS)) for route in _ROUTES],
    )
    for route, case in found.leaks[:20]:
        report.note(f"{route}, {case.end}, {'stream' if case.stream else 'whole'}: {case.value}")
    return {
        "values": len(values),
        "answers": found.answers,
        "refused": found.failed,
        "recoverable": len(found.leaks),
        "recoverable_kinds": sorted({case.value.kind for _, case in found.leaks}),
        "unlike_whole_and_streamed": found.unlike,
        "ordinary_endings": endings,
        "changed": changed,
        "changed_percent": rounded(100 * changed / endings, 3),
        "changed_examples": examples[:5],
        "answers_s": rounded(took),
    }


class _Found:
    """Counts over all answers, and the answers that leave too much."""

    def __init__(self) -> None:
        self.answers = self.failed = self.unlike = 0
        self.leaks: list[tuple[str, _Case]] = []


async def _run(model: Path, folder: Path, values: Sequence[BrokenValue]) -> _Found:
    tokenizer = Tokenizer.load(model)
    codec = Codec(tokenizer, ChatTemplate(_TEMPLATE, tokenizer.bos_token, tokenizer.eos_token))
    engine = _Script(codec, tokenizer)
    options = ServerOptions(guard=GuardOptions(_POLICY, folder))
    app = create_app(build_context([ServedModel("model", engine, codec)], options))
    found = _Found()
    try:
        for number, value in enumerate(values):
            for end in ENDS:
                for route in _ROUTES:
                    left: list[int] = []
                    for stream in (False, True):
                        # Every third answer that may think ends within its thoughts.
                        case = _Case(value, end, stream, number % 3 == 0 and end in ("limit", "own end"))
                        status, body = await _answered(app, engine, route, case)
                        found.answers += 1
                        found.failed += status != 200
                        # Words that lead to a value leave a stream, and are part of a finding in a whole answer.
                        left.append(max(_left(body, value.value), value.most))
                        if left[-1] > value.most:
                            found.leaks.append((route, case))
                    if end != "disconnect":
                        found.unlike += left[0] != left[1]
    finally:
        engine.close()
    return found


async def _answered(app: Any, engine: _Script, route: str, case: _Case) -> tuple[int, str]:
    value = case.value
    head, rest = value.value[: value.cut], value.value[value.cut :]
    said, more = value.words + head, ""
    stop = None
    calls = case.end == "call" and "completions" not in route.removeprefix("/v1/chat")
    if case.end == "call":
        arguments = json.dumps({value.field: "\0"}, ensure_ascii=False).replace("\0", head)
        said = (
            f'<tool_call>\n{{"name": "save", "arguments": {arguments}}}\n</tool_call>' if calls else arguments
        )
    elif case.end in ("limit", "disconnect") or (case.end == "stop string" and route not in _WITHOUT_STOPS):
        more = rest + " and so on."
        stop = (rest + " and")[:6] if case.end == "stop string" else None
    elif case.end == "content filter":
        more = _FORBIDDEN + "。"
    if case.thinks and route != "/v1/completions":
        said = f"<think>\n{said}"
    count = engine.told(said, more, waits=case.end == "disconnect")
    limit = count if case.end == "limit" else _TOKENS
    body = _ROUTES[route](limit, stop, calls) | {"model": "model", "stream": case.stream}
    return await _called(app, route, body, engine.reached if case.end == "disconnect" else None)


async def _called(
    app: Any, path: str, body: Mapping[str, Any], gone: asyncio.Event | None
) -> tuple[int, str]:
    """Returns the status and the body of an answer; of one that the client does not wait for, what has come of it."""
    pieces: list[bytes] = []
    status = 200
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}
        await (asyncio.Event() if gone is None else gone).wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        pieces.append(message.get("body", b""))

    headers = [
        (b"content-type", b"application/json"),
        (b"host", b"bench"),
        (b"anthropic-version", b"2023-06-01"),
    ]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("bench", 80),
        "state": {},
    }
    task = asyncio.create_task(app(scope, receive, send))
    if gone is None:
        await asyncio.wait_for(task, _PATIENCE_S)
    else:
        waiting = asyncio.create_task(gone.wait())
        await asyncio.wait((task, waiting), timeout=_PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return status, b"".join(pieces).decode()


def _chat(limit: int, stop: str | None, calls: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_tokens": limit,
        "logprobs": True,
        "top_logprobs": 1,
        **({"stop": [stop]} if stop else {}),
        **({"tools": [{"type": "function", "function": _FUNCTION}]} if calls else {}),
    }


def _completions(limit: int, stop: str | None, _calls: bool) -> dict[str, Any]:
    return {"prompt": _QUESTION, "max_tokens": limit, "logprobs": 1, **({"stop": [stop]} if stop else {})}


def _responses(limit: int, _stop: str | None, calls: bool) -> dict[str, Any]:
    return {
        "input": _QUESTION,
        "max_output_tokens": limit,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 1,
        "store": False,
        **({"tools": [{"type": "function", **_FUNCTION}]} if calls else {}),
    }


def _messages(limit: int, stop: str | None, calls: bool) -> dict[str, Any]:
    tool = {"name": "save", "description": "Saves it.", "input_schema": _FUNCTION["parameters"]}
    return {
        "messages": [{"role": "user", "content": _QUESTION}],
        "max_tokens": limit,
        **({"stop_sequences": [stop]} if stop else {}),
        **({"tools": [tool]} if calls else {}),
    }


def _ollama(limit: int, stop: str | None, calls: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": _QUESTION}],
        "options": {"num_predict": limit, **({"stop": [stop]} if stop else {})},
        **({"tools": [{"type": "function", "function": _FUNCTION}]} if calls else {}),
    }


_FUNCTION: Final = {
    "name": "save",
    "description": "Saves it.",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": True},
}
_ROUTES: Final[Mapping[str, Callable[[int, str | None, bool], dict[str, Any]]]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/api/chat": _ollama,
}
_WITHOUT_STOPS: Final = ("/v1/responses",)
"""Routes that take no stop strings: the model ends its answer by itself instead."""
_INPUTS: Final = frozenset(one.field for one in broken_values())
"""Arguments of calls, which some routes give as an object."""
_FORBIDDEN: Final = next(
    one.text
    for one in starter_list().terms
    if one.tier == "block" and len(one.text) > 1 and not one.text.isascii()
)


_MEMBERS: Final = frozenset(
    (
        *("content", "text", "delta", "response", "thinking", "reasoning", "reasoning_content", "refusal"),
        *("arguments", "partial_json", "token", "tokens", "alternatives"),
        *_INPUTS,
    )
)
"""Members of an answer that hold what the model wrote."""


def _left(body: str, value: str) -> int:
    """Returns how many characters of a value, from its beginning on, stand in one of the texts of an answer."""
    told: dict[str, list[str]] = {}
    for line in body.splitlines():
        if (line := line.removeprefix("data: ")).startswith("{"):
            for name, text in _texts(json.loads(line), ""):
                told.setdefault(name, []).append(text)
    texts = ["".join(one) for name, one in told.items() if name in _MEMBERS]
    return next(
        count for count in range(len(value), -1, -1) if any(value[:count] in text for text in [*texts, ""])
    )


def _texts(node: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yields the texts in a JSON value, each under the name of its member; alternatives of a token are names themselves."""
    if isinstance(node, str):
        yield name, node
    elif isinstance(node, list):
        for one in node:
            yield from _texts(one, name)
    elif isinstance(node, dict):
        for key, one in node.items():
            if name == "top_logprobs":
                yield "alternatives", key
            yield from _texts(one, key)


def _changed(folder: Path) -> tuple[int, int, list[str]]:
    """Returns how many ordinary texts leave otherwise because they may break off within a value, of how many, and examples."""
    rules = Guard.of(Policy.load(_POLICY), folder).stream_rules()
    plain = rules.also(())
    plain.endings = ()
    texts = [text for one in help_passages()[:_PASSAGES] for text in (one.english, one.chinese)]
    texts += [text.rstrip(".。") for text in number_texts()]
    texts += [text[: len(text) * part // _SPARED] for text in texts for part in range(1, _SPARED)]
    examples: list[str] = []
    for text in texts:
        # An end that does not look like the beginning of a value is not changed.
        if not any(one.scan(normalised(text[-_WINDOW:])) for one in rules.endings):
            continue
        with_ends, without = (_streamed(one, text) for one in (rules, plain))
        if with_ends != without:
            examples.append(text[-60:])
    return len(examples), len(texts), examples


def _streamed(rules: StreamRules, text: str) -> str:
    scanner = StreamScanner(rules)
    told = scanner.push(text).text
    return told if scanner.ended else told + scanner.finish().text

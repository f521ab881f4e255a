"""Accounts of every token of every request: random conversations through the real server, and its books against ours.

Each conversation goes to one route under one policy, whole or streamed, and some go twice, so that a cache answers.

original    the tokens of the conversation, as we render and tokenise it, are those of the ledger
sums        every token has one fate, and the prompt is what survives and what was added
engine      the prompt of the ledger has the tokens that the engine has read, by the usage
places      headers, usage details, the stored answer and the rows of the messages say the same
strict      a conversation that does not fit is refused as `context_length_exceeded`; every other is kept whole
metrics     the sums of all ledgers are those that the server counts
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, Final

import httpx

from deepwell.cli.bench.report import Report
from deepwell.dialogue.text import Codec
from deepwell.dialogue.tools import FunctionTool
from deepwell.knowledge.context.fitting.ledger import FATES
from deepwell.knowledge.context.fitting.policy import POLICIES
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.workloads.context.conversations import Talk, talks

__all__ = ["HonestyOptions", "bench_context_honesty", "faults_of"]

_ANSWER: Final = 4
_ROUTES: Final = ("chat", "chat", "responses", "messages")
_REPEATED: Final = 7  # one conversation in so many goes twice
_SHOWN: Final = 12  # faults that are printed
_NUMBERS: Final = ("original", "prompt", *FATES, "added")


@dataclass(frozen=True, slots=True)
class HonestyOptions:
    """The cases to run.

    Attributes:
        model: the model to serve.
        count: number of conversations.
        context: tokens that the server holds.
        seed: of the conversations.
    """

    model: str = "smollm2"
    count: int = 300
    context: int = 1024
    seed: int = 1


@dataclass(slots=True)
class Answered:
    """The answer to one conversation.

    Attributes:
        tokens: of the conversation, as we render it.
        ledger: numbers of the headers; None where there are none.
        read: tokens of the prompt by the usage.
        details: ledgers in the usage and the stored answer.
    """

    policy: str
    status: int
    tokens: int
    code: str = ""
    ledger: dict[str, int] | None = None
    mechanism: str = ""
    read: int = 0
    details: list[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])


def bench_context_honesty(report: Report, options: HonestyOptions) -> dict[str, Any]:
    """Returns the number of conversations, and those in which something was not accounted for."""
    path = ModelStore(Settings.load().models_dir).get(options.model).path
    codec = Codec.load(path)
    env = {"DEEPWELL_CONTEXT": str(options.context)}
    faults: list[str] = []
    done: list[Answered] = []
    with served(serve_command(path), env=env) as port:
        client = _Client(port)
        try:
            policies = cycle(POLICIES)
            for number, talk in enumerate(talks(options.count, options.seed)):
                route, policy = _ROUTES[number % len(_ROUTES)], next(policies)
                tokens = _tokens(codec, _sent(talk, route))
                for _ in range(2 if number % _REPEATED == 0 else 1):
                    found = client.ask(talk, route, policy, tokens, streams=number % 3 == 0)
                    done.append(found)
                    wrong = faults_of(found, options.context)
                    faults += [f"{number} {route} {policy}: {one}" for one in wrong]
            faults += _counted(client.metrics(), done)
        finally:
            client.close()
    for fault in faults[:_SHOWN]:
        report.note(fault)
    mechanisms = Counter(one.mechanism for one in done if one.ledger is not None)
    refused = Counter(one.policy for one in done if one.status == 400)
    columns = [
        (sum(one.policy == policy for one in done), refused[policy], *_sums(done, policy))
        for policy in POLICIES
    ]
    report.table(
        f"{options.model}, context of {options.context} tokens",
        ("tokens", *POLICIES),
        list(zip(("requests", "refused", *_NUMBERS), *columns, strict=True)),
    )
    return {
        "requests": len(done),
        "answered": sum(one.status == 200 for one in done),
        "refused_strict": refused["strict"],
        "tokens": sum(one.tokens for one in done),
        "lost_strict": sum((one.ledger or {}).get("dropped", 0) for one in done if one.policy == "strict"),
        **{f"by_{name}": mechanisms[name] for name in ("none", "window", "drop", "compress", "retrieve")},
        "faults": len(faults),
    }


def faults_of(found: Answered, context: int) -> list[str]:
    """Returns what is wrong with the account of an answer."""
    if found.status == 400:
        wrong = [] if found.code == "context_length_exceeded" else [f"refused as {found.code}"]
        if found.policy == "strict" and found.tokens + _ANSWER <= context:
            wrong.append(f"{found.tokens} tokens fit, and were refused")
        return wrong
    ledger = found.ledger
    if found.status != 200 or ledger is None:
        return [f"status {found.status}, ledger {ledger}"]
    wrong = []
    if ledger["original"] != found.tokens:
        wrong.append(f"{found.tokens} tokens were sent, {ledger['original']} are accounted for")
    if ledger["original"] != sum(ledger[one] for one in FATES):
        wrong.append(f"the fates do not add up: {ledger}")
    if ledger["prompt"] != ledger["original"] - ledger["dropped"] + ledger["added"]:
        wrong.append(f"the prompt does not add up: {ledger}")
    if ledger["prompt"] != found.read:
        wrong.append(f"the engine read {found.read} tokens, the ledger has {ledger['prompt']}")
    if min(ledger[one] for one in FATES) < 0:
        wrong.append(f"a fate is negative: {ledger}")
    if found.policy == "strict" and ledger["kept"] != found.tokens:
        wrong.append(f"strict kept {ledger['kept']} of {found.tokens} tokens")
    if found.mechanism != "window" and ledger["prompt"] + _ANSWER > context:
        wrong.append(f"a prompt of {ledger['prompt']} tokens ran in a context of {context}")
    for one in found.details:
        wrong += _differences(one, ledger)
    return wrong


def _differences(details: Mapping[str, Any], ledger: Mapping[str, int]) -> list[str]:
    """Returns where the ledger of a usage differs from that of the headers, and from its own rows."""
    wrong = [
        f"{name}: {details[f'{name}_tokens']} in the usage, {ledger[name]} in the headers"
        for name in _NUMBERS
        if details[f"{name}_tokens"] != ledger[name]
    ]
    if "messages" in details:
        rows = [*details["messages"], details["template"]]
        sums = {one: sum(row.get(one, 0) for row in rows) for one in FATES}
        wrong += [f"rows of {one}: {sums[one]} of {ledger[one]}" for one in FATES if sums[one] != ledger[one]]
    return wrong


def _tokens(codec: Codec, talk: Talk) -> int:
    """Returns the tokens of a conversation as the model's template has it."""
    tools = [
        FunctionTool(one["name"], one.get("description", ""), one.get("parameters", {})) for one in talk.tools
    ]
    dialect = codec.dialect
    shown = [one.rendered() for one in tools] if tools and dialect.offers else None
    return len(codec.encode_chat(dialect.conversation(talk.messages, tools), tools=shown))


def _sent(talk: Talk, route: str) -> Talk:
    """Returns the part of a conversation that a route takes in the same shape: without tools, but for chat."""
    if route == "chat" or (talk.plain and route == "responses"):
        return talk
    said = [
        one for one in talk.messages if one["role"] in ("user", "assistant", "system") and one.get("content")
    ]
    said = [{"role": one["role"], "content": one["content"]} for one in said]
    if route == "messages":
        said = _alternating(said)
    return Talk(tuple(said))


def _alternating(said: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns messages of the user and the assistant in turn, the user's first and last, behind at most one system text."""
    system = [one for one in said if one["role"] == "system"][:1]
    found: list[dict[str, Any]] = []
    for one in said:
        wanted = "user" if len(found) % 2 == 0 else "assistant"
        if one["role"] == wanted and one["content"].strip():
            found.append(one)
    if not found or found[-1]["role"] != "user":
        found = found[:-1] or [{"role": "user", "content": "And?"}]
    return [*system, *found]


class _Client:
    """Asks a server by its own SDK's client, and by plain HTTP where that is another company's."""

    def __init__(self, port: int) -> None:
        from openai import OpenAI

        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
        self._sdk = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
        self._model = self._sdk.models.list().data[0].id

    def close(self) -> None:
        """Closes both."""
        self._sdk.close()
        self._http.close()

    def metrics(self) -> str:
        """Returns what the server counts."""
        return self._http.get("/metrics").text

    def ask(self, talk: Talk, route: str, policy: str, tokens: int, *, streams: bool) -> Answered:
        """Returns the answer to a conversation with the accounts of its tokens."""
        from openai import APIStatusError

        sent, found = _sent(talk, route), Answered(policy, 200, tokens)
        headers = {"x-context-policy": policy}
        try:
            match route:
                case "chat" if streams:
                    self._streamed(sent, headers, found)
                case "chat":
                    self._chat(sent, headers, found)
                case "responses":
                    self._response(sent, headers, found)
                case _:
                    self._messages(sent, headers, found)
        except APIStatusError as error:
            found.status, found.code = error.status_code, str(error.code)
        return found

    def _chat(self, talk: Talk, headers: dict[str, str], found: Answered) -> None:
        raw = self._sdk.chat.completions.with_raw_response.create(
            **self._body(talk), max_tokens=_ANSWER, temperature=0, extra_headers=headers
        )
        _read_headers(raw.headers, found)
        usage = raw.parse().usage
        _read_usage(usage.prompt_tokens, usage.prompt_tokens_details, found)

    def _streamed(self, talk: Talk, headers: dict[str, str], found: Answered) -> None:
        raw = self._sdk.chat.completions.with_raw_response.create(
            **self._body(talk),
            max_tokens=_ANSWER,
            temperature=0,
            extra_headers=headers,
            stream=True,
            stream_options={"include_usage": True},
        )
        _read_headers(raw.headers, found)
        for chunk in raw.parse():
            if chunk.usage is not None:
                _read_usage(chunk.usage.prompt_tokens, chunk.usage.prompt_tokens_details, found)

    def _response(self, talk: Talk, headers: dict[str, str], found: Answered) -> None:
        raw = self._sdk.responses.with_raw_response.create(
            model=self._model,
            input=list(talk.messages),  # type: ignore[arg-type]
            max_output_tokens=_ANSWER,
            temperature=0,
            extra_headers=headers,
        )
        _read_headers(raw.headers, found)
        response = raw.parse()
        stored = self._sdk.responses.retrieve(response.id)
        for usage in (response.usage, stored.usage):
            assert usage is not None
            _read_usage(usage.input_tokens, usage.input_tokens_details, found)

    def _messages(self, talk: Talk, headers: dict[str, str], found: Answered) -> None:
        system = "".join(one["content"] for one in talk.messages if one["role"] == "system")
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": _ANSWER,
            "temperature": 0,
            "messages": [one for one in talk.messages if one["role"] != "system"],
        }
        if system:
            body["system"] = system
        answer = self._http.post("/v1/messages", json=body, headers=headers)
        found.status = answer.status_code
        said = answer.json()
        if answer.status_code != 200:
            long = "context" in said["error"]["message"] or "room for" in said["error"]["message"]
            found.code = "context_length_exceeded" if long else str(said["error"])
            return
        _read_headers(answer.headers, found)
        usage = said["usage"]
        found.read = usage["input_tokens"] + usage["cache_read_input_tokens"]

    def _body(self, talk: Talk) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "messages": list(talk.messages)}
        if talk.tools:
            body["tools"] = [{"type": "function", "function": one} for one in talk.tools]
        return body


def _read_headers(headers: Any, found: Answered) -> None:
    if "x-context-tokens-original" in headers:
        found.ledger = {name: int(headers[f"x-context-tokens-{name}"]) for name in _NUMBERS}
        found.mechanism = headers["x-context-mechanism"]


def _read_usage(tokens: int, details: Any, found: Answered) -> None:
    found.read = tokens
    context = (details.model_extra or {}).get("context") if details is not None else None
    if context is not None:
        found.details.append(context)


def _sums(done: Sequence[Answered], policy: str) -> list[str]:
    ledgers = [one.ledger for one in done if one.policy == policy and one.ledger is not None]
    return [f"{sum(one[name] for one in ledgers):,}" for name in _NUMBERS]


def _counted(text: str, done: Sequence[Answered]) -> list[str]:
    """Returns where the server's metrics differ from the sums of all ledgers."""
    ours: Counter[tuple[str, str]] = Counter()
    for one in done:
        for fate in (*FATES, "added"):
            ours[one.policy, fate] += max(0, (one.ledger or {}).get(fate, 0))
    pattern = r"^deepwell_context_tokens_total\{([^}]*)\} ([0-9.e+]+)$"
    theirs: Counter[tuple[str, str]] = Counter()
    for labels, value in re.findall(pattern, text, re.MULTILINE):
        named = json.loads("{" + re.sub(r"(\w+)=", r'"\1":', labels) + "}")
        theirs[named["policy"], named["fate"]] += round(float(value))
    return [
        f"metrics: {theirs[key]} tokens of {key} counted, {ours[key]} in the ledgers"
        for key in sorted(ours | theirs)
        if theirs[key] != ours[key]
    ]

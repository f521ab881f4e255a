"""Time to the first token of a new turn behind a history of 4k tokens and behind one of 64k, through the real server.

The comparison is the one that somebody makes who has both conversations open. One server runs with its default context (8,192
tokens) and `--context-policy auto`; its cache holds three contexts, so that neither conversation evicts the other. Both have a
system message and turns of about 1,200 characters. That of 4k tokens fits the context, so the prefix cache serves all of it and
nothing is fitted. That of 64k does not fit by far.

Both have been talked to before. The first turn of each is told apart as `cold`: it reads 4k tokens, or embeds 64k. Then the two
conversations take turns, and which of them begins alternates. Each turn is sent with the whole conversation so far, the answers
as the server gave them, as every client does. The time is that from the request to the first text. Every turn asks for another
fact of its history, so that what earlier turns recalled is never what is asked for.

brief    the question alone
alike    text as long as the turns before it, then the question: the turn that such a conversation goes on with

The figure is the ratio of the medians of turns that are alike; that of brief ones stands beside it. Turns at which the kept
part of a history slides count as all others do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final, Literal

from deepwell.cli.bench.report import Report, rounded
from deepwell.dialogue.text import Codec
from deepwell.knowledge.context.tokens import CodecTokens
from deepwell.models.store.store import ModelStore
from deepwell.settings import Settings
from deepwell_bench.harness.environments import PeerError
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.workloads.context.haystacks import haystack

__all__ = ["TurnOptions", "bench_context_time"]

Kind = Literal["brief", "alike"]

_HAYSTACK: Final = "help"
_ANSWER: Final = 24
_POOL: Final = 24_576
_SYSTEM: Final = "You are a careful assistant. Answer in a few words."
_FILLER: Final = 6_000  # characters per round that turns alike are cut from, of the other split


@dataclass(frozen=True, slots=True)
class TurnOptions:
    """The cases to measure.

    Attributes:
        models: the first one's figures have no prefix.
        lengths: tokens of the two histories.
        rounds: turns of each kind in each conversation.
    """

    models: tuple[str, ...] = ("qwen2.5-coder-0.5b", "smollm2")
    lengths: tuple[int, int] = (4_000, 64_000)
    rounds: int = 7


@dataclass(frozen=True, slots=True)
class _Timed:
    """One turn: seconds to its first text, and the tokens of its prompt that the engine computed."""

    kind: Kind | Literal["cold"]
    seconds: float
    computed: int
    prompt: int


@dataclass(slots=True)
class _Talk:
    """A conversation, its questions, and the times of its turns."""

    length: int
    messages: list[dict[str, str]]
    questions: Iterator[str]
    timed: list[_Timed] = field(default_factory=list[_Timed])

    def of(self, kind: str) -> list[_Timed]:
        """Returns the turns of a kind."""
        return [one for one in self.timed if one.kind == kind]


def bench_context_time(report: Report, options: TurnOptions) -> dict[str, Any]:
    """Returns the medians of both conversations, and their ratios."""
    value: dict[str, Any] = {"rounds": options.rounds}
    for number, model in enumerate(options.models):
        prefix = f"{model}_" if number else ""
        value |= {f"{prefix}{name}": found for name, found in _measured(report, options, model).items()}
    return value


def _measured(report: Report, options: TurnOptions, model: str) -> dict[str, Any]:
    path = ModelStore(Settings.load().models_dir).get(model).path
    tokens = CodecTokens(Codec.load(path))
    talks = [_talk(length, tokens) for length in options.lengths]
    filler = _filler(tokens, options.rounds)
    env = {
        "DEEPWELL_CONTEXT_POLICY": "auto",
        "DEEPWELL_KV_TOKENS": str(_POOL),
        "DEEPWELL_RESPONSE_CACHE_MB": "0",
    }
    with served(serve_command(path), env=env) as port:
        client = _Client(port)
        for talk in talks:
            client.turn(talk, "cold", "")
        before = client.fit_seconds()
        kinds: Sequence[Kind] = ("brief", "alike")
        for kind in kinds:
            for number in range(options.rounds):
                text = filler[number] if kind == "alike" else ""
                for talk in talks if number % 2 else talks[::-1]:
                    client.turn(talk, kind, text)
        count, seconds = (after - then for after, then in zip(client.fit_seconds(), before, strict=True))
        client.close()
    short, long = talks
    value: dict[str, Any] = {
        "ratio": _ratio(long, short, "alike"),
        "brief_ratio": _ratio(long, short, "brief"),
        "fit_ms": rounded(1000 * seconds / max(count, 1)),
    }
    rows: list[list[Any]] = []
    for talk in talks:
        name = f"{talk.length // 1000}k"
        for kind in ("cold", *kinds):
            turns = talk.of(kind)
            times = [1000 * one.seconds for one in turns]
            value[f"{kind}_{name}_ms"] = rounded(median(times))
            computed = f"{median(one.computed for one in turns):,.0f}"
            rows.append(
                [f"{name}, {kind}", median(times), min(times), max(times), computed, f"{turns[-1].prompt:,}"]
            )
    report.table(
        f"{model}: milliseconds to the first text of a turn, {options.rounds} turns of each kind",
        ["history", "median", "least", "most", "tokens computed", "last prompt"],
        rows,
    )
    return value


def _ratio(long: _Talk, short: _Talk, kind: Kind) -> float:
    times = [median(one.seconds for one in talk.of(kind)) for talk in (long, short)]
    return rounded(times[0] / times[1], 3)


def _talk(length: int, tokens: CodecTokens) -> _Talk:
    hay = haystack(_HAYSTACK, "evaluation", length, tokens.count)
    messages = [{"role": "system", "content": _SYSTEM}]
    for turn in hay.turns():
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Noted."}]
    return _Talk(length, messages, iter([one.text for one in hay.questions]))


def _filler(tokens: CodecTokens, rounds: int) -> list[str]:
    """Returns texts of the length of a turn that stand in no history."""
    return haystack(_HAYSTACK, "development", 4_000 + _FILLER * rounds // 4, tokens.count).turns()[-rounds:]


class _Client:
    """A client that streams answers, by the official SDK."""

    def __init__(self, port: int) -> None:
        import httpx
        from openai import OpenAI

        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self._sdk = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=600)
        self._model = self._sdk.models.list().data[0].id

    def close(self) -> None:
        """Closes the connections."""
        self._sdk.close()
        self._http.close()

    def turn(self, talk: _Talk, kind: Kind | Literal["cold"], text: str) -> None:
        """Sends the next turn of a conversation, and adds the answer to it.

        Raises:
            PeerError: there was no text in the answer.
        """
        question = next(talk.questions)
        talk.messages.append({"role": "user", "content": f"{text}\n\n{question}" if text else question})
        said, first, usage = "", 0.0, None
        began = time.perf_counter()
        stream = self._sdk.chat.completions.create(
            model=self._model,
            messages=talk.messages,  # type: ignore[arg-type]
            max_tokens=_ANSWER,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in stream:
            if chunk.choices and (content := chunk.choices[0].delta.content):
                first = first or time.perf_counter()
                said += content
            usage = chunk.usage or usage
        if not first or usage is None:
            raise PeerError("the server answered without text")
        cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
        computed = usage.prompt_tokens - (cached or 0)
        talk.timed.append(_Timed(kind, first - began, computed, usage.prompt_tokens))
        talk.messages.append({"role": "assistant", "content": said})

    def fit_seconds(self) -> tuple[float, float]:
        """Returns how many conversations the server has fitted, and the seconds that took."""
        text = self._http.get("/metrics").text
        found = {
            name: sum(
                float(value)
                for value in re.findall(rf"^deepwell_context_fit_seconds_{name}\{{.*?\}} (\S+)$", text, re.M)
            )
            for name in ("count", "sum")
        }
        return found["count"], found["sum"]

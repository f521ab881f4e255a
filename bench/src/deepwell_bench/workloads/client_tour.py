"""One client program against any of our servers: chat, streams, tools, structured output, log probabilities, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openai import OpenAI

__all__ = ["QUESTIONS", "greedy_answers", "take_client_tour"]

QUESTIONS = (
    "What is the capital of France?",
    "Name the largest planet of the solar system.",
    "Write one sentence about the sea.",
    "How many days has a week?",
)
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Returns the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "even": {"type": "boolean"}},
    "required": ["colour", "even"],
    "additionalProperties": False,
}


def take_client_tour(client: OpenAI, model: str) -> dict[str, str]:
    """Returns for each check what was wrong; empty: nothing."""
    tour = _Tour(client, model)
    checks: tuple[Callable[[], None], ...] = (
        tour.answer,
        tour.stream,
        tour.tools,
        tour.tools_in_a_stream,
        tour.structured,
        tour.choices,
        tour.logprobs,
        tour.seeds,
        tour.stops,
        tour.echo,
        tour.refusals,
    )
    return {check.__name__.replace("_", " "): _problem(check) for check in checks}


class _Tour:
    """The checks, one a method. Each raises where the server is not what its documentation says."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._chat: Any = client.chat.completions.create
        self._complete: Any = client.completions.create
        self._model = model
        self._asked: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": 24}

    def answer(self) -> None:
        found = self._chat(messages=_question(QUESTIONS[0]), **self._asked)
        assert found.choices[0].message.content and found.usage.prompt_tokens > 5

    def stream(self) -> None:
        whole = self._chat(messages=_question(QUESTIONS[1]), **self._asked).choices[0].message.content
        parts = self._chat(
            messages=_question(QUESTIONS[1]),
            stream=True,
            stream_options={"include_usage": True},
            **self._asked,
        )
        text, usage, finish = "", None, None
        for part in parts:
            usage = part.usage or usage
            for choice in part.choices:
                text += choice.delta.content or ""
                finish = choice.finish_reason or finish
        assert text == whole, f"{text!r} is not {whole!r}"
        assert usage is not None and usage.completion_tokens and finish in ("stop", "length")

    def tools(self) -> None:
        choice = {"type": "function", "function": {"name": "get_weather"}}
        found = self._chat(
            messages=_question("What is the weather in Paris?"),
            tools=[_WEATHER],
            tool_choice=choice,
            **self._asked | {"max_tokens": 60},
        ).choices[0]
        call = found.message.tool_calls[0].function
        assert call.name == "get_weather" and json.loads(call.arguments)["city"] in ("Paris", "Rome")

    def tools_in_a_stream(self) -> None:
        parts = self._chat(
            messages=_question("What is the weather in Rome?"),
            tools=[_WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
            stream=True,
            **self._asked | {"max_tokens": 60},
        )
        arguments: dict[int, str] = {}
        for part in parts:
            for choice in part.choices:
                for call in choice.delta.tool_calls or ():
                    arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
        cities = [json.loads(text)["city"] for text in arguments.values()]
        assert cities and all(city in ("Paris", "Rome") for city in cities)

    def structured(self) -> None:
        shape = {"type": "json_schema", "json_schema": {"name": "toy", "schema": _SCHEMA, "strict": True}}
        found = self._chat(
            messages=_question("A colour?"), response_format=shape, **self._asked | {"max_tokens": 60}
        ).choices[0]
        value = json.loads(found.message.content)
        assert value["colour"] in ("red", "green") and isinstance(value["even"], bool) and len(value) == 2

    def choices(self) -> None:
        body = {"extra_body": {"structured_outputs": {"choice": ["yes", "no"]}}}
        found = self._chat(messages=_question("Is water wet?"), **self._asked, **body).choices[0]
        assert found.message.content in ("yes", "no")

    def logprobs(self) -> None:
        found = self._chat(
            messages=_question(QUESTIONS[3]), logprobs=True, top_logprobs=3, **self._asked
        ).choices[0]
        rows = found.logprobs.content
        assert rows and all(row.logprob <= 0 and len(row.top_logprobs) == 3 for row in rows)
        assert all(row.token == row.top_logprobs[0].token for row in rows), "greedy"

    def seeds(self) -> None:
        body = self._asked | {"temperature": 0.9, "seed": 7, "n": 2}
        first, again = (
            [one.message.content for one in self._chat(messages=_question(QUESTIONS[2]), **body).choices]
            for _ in range(2)
        )
        assert first == again and first[0] != first[1]

    def stops(self) -> None:
        body = {"model": self._model, "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 40, "temperature": 0}
        found = self._complete(stop=["9"], **body).choices[0]
        assert "9" not in found.text and found.finish_reason == "stop"

    def echo(self) -> None:
        found = self._complete(
            model=self._model, prompt="The sky is blue", echo=True, logprobs=1, max_tokens=0
        ).choices[0]
        values = found.logprobs.token_logprobs
        assert found.text == "The sky is blue" and values[0] is None and all(v < 0 for v in values[1:])

    def refusals(self) -> None:
        from openai import BadRequestError

        code = ""
        try:
            self._chat(messages=_question("word " * 9000), **self._asked)
        except BadRequestError as error:
            code = str(error.code)
        assert code == "context_length_exceeded", code or "a prompt of 9,000 tokens was taken"


def _question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def greedy_answers(client: OpenAI, model: str, tokens: int) -> list[list[str]]:
    """Returns the tokens of an answer to each question."""
    found: list[list[str]] = []
    for text in QUESTIONS:
        chat: Any = client.chat.completions.create
        answer = chat(
            model=model,
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=tokens,
            logprobs=True,
        )
        found.append([str(row.token) for row in answer.choices[0].logprobs.content])
    return found


def _problem(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:  # whatever it was, the next check runs
        return f"{type(error).__name__}: {error}"[:300] or "failed"
    return ""

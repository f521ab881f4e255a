"""LangChain, pydantic-ai, instructor and the clients of `clients_agents.py` against a running server.

The interpreter that has them runs it:

    python clients_worker.py URL MODEL llamaindex|others

Prints one line of JSON for each check: its client, its name, whether it passed, and what was wrong.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

URL, MODEL, GROUP = sys.argv[1:4]
QUESTION = "What is the weather in Paris?"
CHECKS: list[tuple[str, Callable[[], None]]] = []


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=30)
    celsius: int = Field(ge=-50, le=60)
    sky: Literal["clear", "cloudy", "rain"]


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=20)


def check(client: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def add(run: Callable[[], None]) -> Callable[[], None]:
        CHECKS.append((client, run))
        return run

    return add


def langchain_model(**given: Any) -> Any:
    from langchain_openai import ChatOpenAI

    settings = {"temperature": 0, "max_tokens": 120} | given
    return ChatOpenAI(base_url=URL, api_key="none", model=MODEL, max_retries=0, **settings)


def weather_tool() -> Any:
    from langchain_core.tools import tool

    @tool
    def get_weather(city: Annotated[str, Field(max_length=30)]) -> str:
        """Current weather in a city."""
        return f"sunny in {city}"

    return get_weather


@check("langchain")
def chat() -> None:
    answer = langchain_model().invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")


@check("langchain")
def stream_equals_chat() -> None:
    model = langchain_model()
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == model.invoke(QUESTION).content


@check("langchain")
def asynchronous_stream() -> None:
    async def run() -> str:
        return "".join([chunk.content async for chunk in langchain_model().astream(QUESTION)])

    assert asyncio.run(run())


@check("langchain")
def batch() -> None:
    answers = langchain_model(max_tokens=8).batch([QUESTION, "Name a colour."])
    assert len(answers) == 2 and all(answer.content for answer in answers)


@check("langchain")
def tool_call() -> None:
    answer = langchain_model().bind_tools([weather_tool()], tool_choice="any").invoke(QUESTION)
    assert answer.tool_calls and answer.tool_calls[0]["name"] == "get_weather"
    assert set(answer.tool_calls[0]["args"]) == {"city"}
    assert not answer.invalid_tool_calls


@check("langchain")
def named_tool_call_streamed() -> None:
    bound = langchain_model().bind_tools([weather_tool()], tool_choice="get_weather")
    whole: Any = None
    for chunk in bound.stream(QUESTION):
        whole = chunk if whole is None else whole + chunk
    assert len(whole.tool_calls) == 1 and isinstance(whole.tool_calls[0]["args"]["city"], str)


@check("langchain")
def tool_round_trip() -> None:
    from langchain_core.messages import HumanMessage

    tool = weather_tool()
    bound = langchain_model().bind_tools([tool], tool_choice="get_weather")
    messages: list[Any] = [HumanMessage(QUESTION)]
    asked = bound.invoke(messages)
    messages += [asked, tool.invoke(asked.tool_calls[0])]
    answer = langchain_model().bind_tools([tool], tool_choice="none").invoke(messages)
    assert answer.content and not answer.tool_calls


@check("langchain")
def structured_by_schema() -> None:
    structured = langchain_model().with_structured_output(Weather, method="json_schema")
    assert isinstance(structured.invoke(QUESTION), Weather)


@check("langchain")
def structured_by_tool() -> None:
    structured = langchain_model().with_structured_output(Weather, method="function_calling")
    assert isinstance(structured.invoke(QUESTION), Weather)


@check("langchain")
def structured_strictly() -> None:
    structured = langchain_model().with_structured_output(Weather, method="json_schema", strict=True)
    assert isinstance(structured.invoke(QUESTION), Weather)


@check("langchain")
def structured_stream() -> None:
    structured = langchain_model().with_structured_output(Weather, method="json_schema")
    assert isinstance(list(structured.stream(QUESTION))[-1], Weather)


def agent(**given: Any) -> Any:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key="none"))
    settings = {"temperature": 0.0, "max_tokens": 200}
    return Agent(model, model_settings=settings, **given)  # pyright: ignore


@check("pydantic-ai")
def run() -> None:
    result = agent(system_prompt="Be brief.").run_sync(QUESTION)
    assert result.output and result.usage.output_tokens > 0


@check("pydantic-ai")
def run_stream() -> None:
    async def said() -> str:
        async with agent().run_stream(QUESTION) as result:
            return "".join([text async for text in result.stream_text(delta=True)])

    assert asyncio.run(said())


@check("pydantic-ai")
def history() -> None:
    first = agent().run_sync("Name a colour.")
    assert agent().run_sync("And another one.", message_history=first.all_messages()).output


@check("pydantic-ai")
def output_by_tool() -> None:
    assert isinstance(agent(output_type=Weather).run_sync(QUESTION).output, Weather)


@check("pydantic-ai")
def output_by_schema() -> None:
    from pydantic_ai import NativeOutput

    assert isinstance(agent(output_type=NativeOutput(Weather)).run_sync(QUESTION).output, Weather)


@check("pydantic-ai")
def output_streamed() -> None:
    async def said() -> Any:
        async with agent(output_type=Weather).run_stream(QUESTION) as result:
            return await result.get_output()

    assert isinstance(asyncio.run(said()), Weather)


@check("pydantic-ai")
def output_after_tools_in_the_history() -> None:
    from pydantic_ai.messages import (
        ModelRequest,
        ModelResponse,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )

    messages = [
        ModelRequest(parts=[UserPromptPart(QUESTION)]),
        ModelResponse(parts=[ToolCallPart("get_weather", {"city": "Paris"}, "call_1")]),
        ModelRequest(parts=[ToolReturnPart("get_weather", "rain, 12 degrees", "call_1")]),
    ]
    told = agent(output_type=Weather)

    @told.tool_plain
    def get_weather(city: str) -> str:
        return "rain, 12 degrees"

    async def run_tools() -> Any:
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.tools import ToolDefinition

        schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tool = ToolDefinition(name="get_weather", description="Weather", parameters_json_schema=schema)
        parameters = ModelRequestParameters(function_tools=[tool], allow_text_output=True)
        return await told.model.request(messages, {"temperature": 0.0, "max_tokens": 60}, parameters)

    assert asyncio.run(run_tools()).parts


def patched(mode: str) -> Any:
    import instructor
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key="none", max_retries=0)
    return instructor.from_openai(client, mode=getattr(instructor.Mode, mode))


ASKED: dict[str, Any] = {
    "model": MODEL,
    "temperature": 0,
    "max_tokens": 200,
    "max_retries": 0,
    "messages": [{"role": "user", "content": QUESTION}],
}


def _instructor(mode: str) -> None:
    @check("instructor")
    def structured() -> None:
        assert isinstance(patched(mode).chat.completions.create(response_model=Weather, **ASKED), Weather)

    structured.__name__ = f"mode_{mode.lower()}"


for _mode in ("TOOLS", "TOOLS_STRICT", "JSON_SCHEMA"):
    _instructor(_mode)


@check("instructor")
def partial_stream() -> None:
    parts = list(patched("TOOLS").chat.completions.create_partial(response_model=Weather, **ASKED))
    assert len(parts) > 1 and Weather(**parts[-1].model_dump())


@check("instructor")
def usage_and_raw_completion() -> None:
    _, raw = patched("TOOLS").chat.completions.create_with_completion(response_model=City, **ASKED)
    assert raw.usage.completion_tokens > 0


@check("instructor")
def asynchronous() -> None:
    import instructor
    from openai import AsyncOpenAI

    client = instructor.from_openai(AsyncOpenAI(base_url=URL, api_key="none", max_retries=0))
    answer = asyncio.run(client.chat.completions.create(response_model=City, **ASKED))
    assert isinstance(answer, City)


def main() -> None:
    """Runs every check; none stops the others."""
    sys.path.insert(0, str(Path(__file__).parent))
    from clients_agents import agents, llama_index

    if GROUP == "llamaindex":
        chosen = llama_index(URL, MODEL, Weather)
    else:
        chosen = [*CHECKS, *agents(URL, MODEL, Weather)]
    for client, run_check in chosen:
        try:
            run_check()
            problem = ""
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {error} ({place.name}:{place.lineno})"[:600]
        line = {"client": client, "check": run_check.__name__, "passed": not problem, "problem": problem}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

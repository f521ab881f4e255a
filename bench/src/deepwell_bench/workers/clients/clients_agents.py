"""Further checks of `clients_worker.py`: LlamaIndex, OpenAI Agents SDK, Anthropic's tool runner, LangChain's defaults."""

# pyright: basic, reportMissingImports=false
# Annotations are not postponed: clients read those of the tools below, which lie inside functions.

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, Field

QUESTION = "What is the weather in Paris?"
COLOUR = "Name a colour."  # the Agents SDK takes an answer that max_tokens cut for an error, so it asks for a short one
Check = tuple[str, Callable[[], None]]


def agents(url: str, model: str, weather: type[BaseModel]) -> list[Check]:
    """Returns the checks of all but LlamaIndex, each with the client's name."""
    return [
        *_langchain_defaults(url, model, weather),
        *_agents(url, model, weather),
        *_tool_runner(url.removesuffix("/v1"), model),
    ]


def _named(client: str, *functions: Callable[[], None]) -> list[Check]:
    return [(client, function) for function in functions]


def _langchain_defaults(url: str, model: str, weather: type[BaseModel]) -> list[Check]:
    """LangChain with nothing set but address, key and model. Free text has a limit, or a small model would fill its context."""

    def llm(**given: Any) -> Any:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(base_url=url, api_key="none", model=model, **given)

    def default_chat() -> None:
        assert llm(max_tokens=120).invoke(QUESTION).content

    def default_stream() -> None:
        assert "".join(chunk.content for chunk in llm(max_tokens=120).stream(QUESTION))

    def default_tools() -> None:
        from langchain_core.tools import tool

        @tool
        def get_weather(city: Annotated[str, Field(max_length=30)]) -> str:
            """Current weather in a city."""
            return f"sunny in {city}"

        answer = llm().bind_tools([get_weather], tool_choice="any").invoke(QUESTION)
        assert answer.tool_calls and not answer.invalid_tool_calls

    def default_structured() -> None:
        assert isinstance(llm().with_structured_output(weather).invoke(QUESTION), weather)

    def responses_api() -> None:
        assert llm(use_responses_api=True, max_tokens=120).invoke(QUESTION).text

    def embeddings() -> None:
        from langchain_openai import OpenAIEmbeddings

        embedder = OpenAIEmbeddings(
            base_url=url, api_key="none", model=model, check_embedding_ctx_length=False
        )
        one, other = embedder.embed_documents(["a red apple", "a green apple"])
        assert len(one) == len(other) > 100 and embedder.embed_query("a red apple") == one

    def default_embeddings_are_told_the_fix() -> None:
        """By default it sends token ids of OpenAI's tokenizer, which mean other words to any other model."""
        import openai
        import tiktoken
        from langchain_openai import OpenAIEmbeddings

        class Encoding:
            """Stands in for OpenAI's, which is downloaded when it is first used."""

            def encode(self, text: str, **_: Any) -> list[int]:
                return list(text.encode())

            encode_ordinary = encode

        told = ""
        real, tiktoken.get_encoding = tiktoken.get_encoding, lambda _name: Encoding()
        try:
            OpenAIEmbeddings(base_url=url, api_key="none", model=model).embed_query("a red apple")
        except openai.BadRequestError as error:
            told = str(error)
        finally:
            tiktoken.get_encoding = real
        assert "check_embedding_ctx_length=False" in told, "ids of another tokenizer were embedded"

    return _named(
        "langchain",
        default_chat,
        default_stream,
        default_tools,
        default_structured,
        responses_api,
        embeddings,
        default_embeddings_are_told_the_fix,
    )


def llama_index(url: str, model: str, weather: type[BaseModel]) -> list[Check]:
    """Returns the checks of LlamaIndex, which needs an older version of OpenAI's SDK than the others."""

    def llm() -> Any:
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(
            model=model,
            api_base=url,
            api_key="none",
            is_chat_model=True,
            is_function_calling_model=True,
            context_window=2048,
            max_tokens=200,
            temperature=0,
        )

    def messages() -> Any:
        from llama_index.core.llms import ChatMessage

        return [ChatMessage(role="user", content=QUESTION)]

    def chat() -> None:
        assert llm().chat(messages()).message.content

    def stream_equals_chat() -> None:
        parts = [part.delta for part in llm().stream_chat(messages())]
        assert "".join(part or "" for part in parts) == llm().chat(messages()).message.content

    def complete() -> None:
        assert llm().complete("Name a colour.").text

    def asynchronous() -> None:
        assert asyncio.run(llm().achat(messages())).message.content

    def tool_call() -> None:
        from llama_index.core.tools import FunctionTool

        def get_weather(city: Annotated[str, Field(max_length=30)]) -> str:
            """Current weather in a city."""
            return f"sunny in {city}"

        tools = [FunctionTool.from_defaults(get_weather)]
        client = llm()
        answer = client.chat_with_tools(tools, chat_history=messages(), tool_required=True)
        (call, *_) = client.get_tool_calls_from_response(answer)
        assert call.tool_name == "get_weather" and set(call.tool_kwargs) == {"city"}

    def structured_output() -> None:
        from llama_index.core.prompts import PromptTemplate

        made = llm().structured_predict(weather, PromptTemplate("{question}"), question=QUESTION)
        assert isinstance(made, weather)

    def embeddings() -> None:
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        embedder = OpenAILikeEmbedding(model_name=model, api_base=url, api_key="none")
        one, other = embedder.get_text_embedding_batch(["a red apple", "a green apple"])
        assert len(one) == len(other) > 100
        assert len(embedder.get_query_embedding("a red apple")) == len(one)

    return _named(
        "llamaindex",
        chat,
        stream_equals_chat,
        complete,
        asynchronous,
        tool_call,
        structured_output,
        embeddings,
    )


def _agents(url: str, model: str, weather: type[BaseModel]) -> list[Check]:
    """The OpenAI Agents SDK, over the Responses API, which is its default, and over chat completions."""

    def agent(api: str, **given: Any) -> Any:
        from agents import Agent, ModelSettings, set_tracing_disabled
        from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel
        from agents.models.openai_responses import OpenAIResponsesModel
        from openai import AsyncOpenAI

        set_tracing_disabled(True)
        of = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
        settings = ModelSettings(temperature=0, max_tokens=200, **given.pop("settings", {}))
        return Agent("helper", model=of(model, client), model_settings=settings, **given)

    def found(api: str) -> list[Check]:
        def run() -> None:
            from agents import Runner

            result = asyncio.run(Runner.run(agent(api, instructions="Be brief."), COLOUR))
            assert result.final_output

        def second_turn() -> None:
            from agents import Runner

            async def both() -> Any:
                first = await Runner.run(agent(api), COLOUR)
                again = [*first.to_input_list(), {"role": "user", "content": "And another one."}]
                return await Runner.run(agent(api), again)

            assert asyncio.run(both()).final_output

        def stream() -> None:
            from agents import Runner

            async def events() -> int:
                result = Runner.run_streamed(agent(api), COLOUR)
                return len([event async for event in result.stream_events()])

            assert asyncio.run(events()) > 2

        def tools() -> None:
            from agents import Runner, function_tool

            ran: list[str] = []

            @function_tool
            def get_weather(city: Annotated[str, Field(max_length=30)]) -> str:
                """Current weather in a city."""
                ran.append(city)
                return f"sunny in {city}"

            told = agent(api, tools=[get_weather], settings={"tool_choice": "required"})
            assert asyncio.run(Runner.run(told, QUESTION, max_turns=4)).final_output is not None
            assert ran

        def structured_output() -> None:
            from agents import Runner

            result = asyncio.run(Runner.run(agent(api, output_type=weather), QUESTION))
            assert isinstance(result.final_output, weather)

        functions = (run, second_turn, stream, tools, structured_output)
        for function in functions:
            function.__name__ = f"{api}_{function.__name__}"
        return _named("openai-agents", *functions)

    return [*found("responses"), *found("chat")]


def _tool_runner(url: str, model: str) -> list[Check]:
    """Anthropic's SDK: messages, and the runner that calls tools by itself."""

    def client() -> Any:
        from anthropic import Anthropic

        return Anthropic(base_url=url, api_key="none", max_retries=0)

    def asked() -> dict[str, Any]:
        return {"model": model, "max_tokens": 200, "messages": [{"role": "user", "content": QUESTION}]}

    def chat() -> None:
        answer = client().messages.create(**asked())
        assert answer.content[0].text and answer._request_id

    def stream() -> None:
        with client().messages.stream(**asked()) as events:
            assert "".join(events.text_stream)

    def runner(streamed: bool) -> None:
        from anthropic import beta_tool

        ran: list[str] = []

        @beta_tool
        def get_weather(city: Annotated[str, Field(max_length=30)]) -> str:
            """Current weather in a city."""
            ran.append(city)
            return f"sunny in {city}"

        given = asked() | {"tools": [get_weather], "tool_choice": {"type": "any"}, "max_iterations": 2}
        turns = list(client().beta.messages.tool_runner(**given, stream=streamed))
        assert len(turns) == 2 and ran

    def tool_runner() -> None:
        runner(False)

    def structured_output() -> None:
        class City(BaseModel):
            """A city."""

            name: str = Field(max_length=20)

        answer = client().messages.parse(**asked(), output_format=City)
        assert isinstance(answer.parsed_output, City)

    return _named("anthropic", chat, stream, tool_runner, structured_output)

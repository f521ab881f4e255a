"""`AsyncLLM`: the same answers as `LLM`, on any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.llm.test_calls import FRANCE, GREECE, is_idle
from tests.waiting import until_async

from deepwell import LLM, AsyncLLM
from deepwell.errors import DeepwellError, InvalidRequest, ModelNotFound


@pytest.fixture
async def other(smollm2_path: Path) -> AsyncIterator[AsyncLLM]:
    async with AsyncLLM(smollm2_path, context=512) as opened:
        yield opened


async def idle(other: AsyncLLM) -> None:
    await until_async(lambda: is_idle(other))  # type: ignore[arg-type]


async def test_answers_are_those_of_llm(llm: LLM, other: AsyncLLM, adapter: Path) -> None:
    prompts = ["One, two, three,", "The capital of Greece is"]
    theirs = await other.generate(prompts, temperature=0, progress=True)
    assert [one.text for one in theirs] == [one.text for one in llm.generate(prompts, temperature=0)]
    chats = await asyncio.gather(*(other.chat(one, temperature=0, max_tokens=20) for one in (FRANCE, GREECE)))
    assert ["Paris" in chats[0].text, "Athens" in chats[1].text] == [True, True]
    assert await other.score("Paris is") == llm.score("Paris is")
    assert (await other.embed(["a", "b"])).tolist() == llm.embed(["a", "b"]).tolist()
    assert await other.tokenize("hello") == llm.tokenize("hello")
    assert other.detokenize(await other.tokenize("hello")) == "hello"
    await other.load_adapter("pirate", adapter)
    assert (await other.generate("a", adapter="pirate", max_tokens=1)).completion_tokens == 1
    await other.unload_adapter("pirate")
    with pytest.raises(ModelNotFound, match="no adapter 'pirate'"):
        await other.generate("a", adapter="pirate")
    with pytest.raises(InvalidRequest, match="temperature is 3"):
        await other.generate("a", temperature=3)


async def test_a_stream_is_the_whole_in_pieces(llm: LLM, other: AsyncLLM) -> None:
    stream = await other.generate("Once upon a time", temperature=0, max_tokens=12, stream=True)
    text = "".join([str(piece) async for piece in stream])
    assert text == llm.generate("Once upon a time", temperature=0, max_tokens=12).text


async def test_what_is_left_or_cancelled_is_aborted(other: AsyncLLM) -> None:
    long = {"max_tokens": 400, "ignore_eos": True}
    stream = await other.generate("Once", stream=True, **long)
    async for _ in stream:
        break
    await stream.aclose()
    assert [piece async for piece in stream] == []
    await idle(other)
    stream = await other.generate("Once", stream=True, **long)
    await anext(stream)
    del stream
    await idle(other)
    call = asyncio.create_task(other.generate("Once", **long))
    await until_async(lambda: not is_idle(other))  # type: ignore[arg-type]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await idle(other)


def test_several_loops_in_turn_use_one_model(smollm2_path: Path) -> None:
    other = AsyncLLM(smollm2_path, context=512)
    texts = [asyncio.run(other.generate("One, two, three,", temperature=0)).text for _ in range(2)]
    assert texts[0] == texts[1]
    asyncio.run(other.close())
    with pytest.raises(DeepwellError, match="is closed"):
        asyncio.run(other.generate("a"))


async def test_closing_ends_what_runs_with_an_error(smollm2_path: Path) -> None:
    other = AsyncLLM(smollm2_path, context=512)
    stream = await other.generate("Once", max_tokens=400, ignore_eos=True, stream=True)
    call = asyncio.create_task(other.generate("Once", max_tokens=400, ignore_eos=True))
    await anext(stream)
    await other.close()
    with pytest.raises(DeepwellError, match="closed"):
        await call
    with pytest.raises(DeepwellError, match="closed"):
        async for _ in stream:
            pass


async def test_a_model_that_cannot_load_says_so_at_the_first_call(smollm2_path: Path, tmp_path: Path) -> None:
    other = AsyncLLM(smollm2_path, adapters={"none": tmp_path}, context=512)
    with pytest.raises(DeepwellError):
        await other.generate("a")
    await other.close()

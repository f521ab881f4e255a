"""The tokenizer in a process of its own: the same answers, limits that hold, and an end at any moment."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.held import hold
from tests.models.tokenizer_files import TEMPLATE, write_directory, write_gguf
from tests.waiting import until_async

from deepwell.dialogue.lane import TextLane
from deepwell.dialogue.text import Codec
from deepwell.errors import EngineUnavailable, InvalidModelFile, InvalidRequest
from deepwell.models.store.manifest import Manifest, ModelFile
from deepwell.models.store.trust import is_vouched
from deepwell.models.text.chat_template import ChatTemplate, encode_chat
from deepwell.models.text.text_process import TextProcess, TooLong
from deepwell.models.text.tokenizer import Tokenizer
from deepwell.process.calls import CallEnded, CallProcess

TEXT = st.text(st.sampled_from("hello 12你好<|im_end|>\n\U000f0000é "), max_size=80)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("model") / "plain.gguf", pre="smollm")


@pytest.fixture(scope="module")
def process(model: Path) -> Iterator[TextProcess]:
    process = TextProcess(model)
    yield process
    process.close()


@pytest.fixture(scope="module")
def local(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


@settings(max_examples=40)
@given(texts=st.lists(TEXT, min_size=1, max_size=3), special=st.booleans(), size=st.integers(0, 1 << 80))
def test_the_answers_are_those_in_process(
    process: TextProcess, local: Tokenizer, texts: list[str], special: bool, size: int
) -> None:
    wanted = [local.encode(text, allow_special=special) for text in texts]
    assert process.encode(texts, allow_special=special) == wanted
    for text, tokens in zip(texts, wanted, strict=True):
        assert local.fewest_tokens(text) <= len(tokens)
    template = ChatTemplate(TEMPLATE, None, None)
    messages: list[dict[str, Any]] = [{"role": "user", "content": text, "size": size} for text in texts]
    assert process.encode_chat(messages) == encode_chat(local, template, messages)
    assert process.render(messages) == template.render(messages)


def test_too_many_tokens_are_counted_and_not_sent(process: TextProcess, local: Tokenizer) -> None:
    text = "a1" * 30_000
    with pytest.raises(TooLong) as plain:
        process.encode(["a", text], most_tokens=100)
    assert (plain.value.index, plain.value.count, plain.value.exact) == (1, 60_000, True)
    messages = [{"role": "user", "content": text}]
    with pytest.raises(TooLong) as chat:
        process.encode_chat(messages, most_tokens=100)
    assert (100 < chat.value.count <= 60_000) and not chat.value.exact
    with pytest.raises(TooLong) as counted:
        process.encode_chat(messages, most_tokens=100, counted=True)
    assert counted.value.exact
    assert counted.value.count == len(process.encode_chat(messages))


def test_refusals_cross_as_they_are(process: TextProcess) -> None:
    with pytest.raises(InvalidRequest, match="lone surrogate"):
        process.encode(["\ud800"])


def test_a_call_can_be_killed_and_the_next_one_is_answered(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = TextProcess(model)
    process.start()
    hold(monkeypatch, process.pid)
    ended: list[BaseException] = []

    def ask() -> None:
        try:
            process.encode(["hello"])
        except CallEnded as error:
            ended.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():  # the call may not have begun
        process.kill()
        thread.join(0.02)
    assert isinstance(ended[0], CallEnded) and ended[0].killed
    assert process.encode(["hello"]) == [Tokenizer.load(model).encode("hello")]
    process.close()


def killed(
    process: TextProcess, times: int, monkeypatch: pytest.MonkeyPatch
) -> list[list[int]] | BaseException:
    """Asks for tokens, and kills so many children with the question in hand; returns the answer."""
    process.start()
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    left = iter(range(times))
    exchange: Callable[..., bytes] = getattr(CallProcess, "_exchange")  # noqa: B009 - once the child stands

    def stopped(calls: CallProcess, request: bytes, processor_s: float, file: int | None = None) -> bytes:
        if next(left, None) is not None:
            os.kill(calls.pid, signal.SIGSTOP)  # it cannot answer before it is killed
            asked.put(calls.pid)
        return exchange(calls, request, processor_s, file)

    monkeypatch.setattr(CallProcess, "_exchange", stopped)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(process.encode, ["hello"])
        for _ in range(times):
            os.kill(asked.get(timeout=60), signal.SIGKILL)
        return answer.exception() or answer.result()


def test_a_text_whose_child_is_killed_is_tokenised_by_the_next(
    model: Path, local: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = TextProcess(model)
    assert killed(process, 1, monkeypatch) == [local.encode("hello")]
    process.start()
    os.kill(process.pid, signal.SIGKILL)  # nobody asks for anything meanwhile
    assert process.encode(["hello"]) == [local.encode("hello")]
    process.close()


def test_a_child_that_is_killed_again_is_a_refusal_that_may_be_sent_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = TextProcess(model)
    refused = killed(process, 2, monkeypatch)
    assert isinstance(refused, EngineUnavailable) and refused.status == 503 and "again" in refused.fix
    assert len(process.encode(["hello"])[0]) == 1
    process.close()


def test_memory_is_limited(model: Path) -> None:
    process = TextProcess(model, memory_bytes=128 << 20)
    with pytest.raises(InvalidRequest, match="too much memory"):
        process.encode(["a1" * 4_000_000])
    assert len(process.encode(["hello"])[0]) == 1
    process.close()


def test_a_template_that_does_not_come_back_is_ended_by_the_kernel(tmp_path: Path) -> None:
    write_directory(tmp_path)
    # One call, in which the sandbox cannot look at its clock: a search that takes the product of both lengths.
    source = "{% set a = 'ab' * 4000000 %}" + "{{ " + " or ".join(["(('a' * 60 ~ 'c') in a)"] * 900) + " }}"
    (tmp_path / "chat_template.jinja").write_text(source)
    process = TextProcess(tmp_path)
    with pytest.raises(InvalidModelFile):
        process.encode_chat([{"role": "user", "content": "hi"}])
    process.close()


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_long_texts_leave_nothing_behind(process: TextProcess) -> None:
    process.encode(["hello"])
    pid, before = process.pid, rss_bytes(process.pid)
    for number in range(2):
        process.encode([f"a{number}" * 60_000])
        process.encode_chat([{"role": "user", "content": f"b{number}" * 60_000}])
    assert process.pid == pid
    assert rss_bytes(pid) - before < 24 << 20


async def test_tenants_share_one_child_in_turns(model: Path, local: Tokenizer) -> None:
    lane = TextLane(TextProcess(model), idle_s=60.0)
    pids: list[int] = []

    def work(process: TextProcess, text: str) -> list[int]:
        tokens = process.encode([text])[0]
        pids.append(process.pid)
        return tokens

    texts = [f"{tenant}{number}" for number in range(4) for tenant in "abc"]
    answers = await asyncio.gather(*(lane.run(text[0], 1, partial(work, text=text)) for text in texts))
    assert answers == [local.encode(text) for text in texts]
    assert len(pids) == len(texts) and len(set(pids)) == 1
    lane.close()
    await until_async(lambda: not lane.process.pid)


async def test_what_remembers_texts_ends_when_somebodys_data_are_erased(model: Path) -> None:
    lane = TextLane(TextProcess(model), idle_s=60.0)
    lane.forget()  # there is nothing yet

    def work(process: TextProcess) -> tuple[list[int], int]:
        return process.encode_chat([{"role": "user", "content": "a b " * 100}], owner="a"), process.pid

    tokens, pid = await lane.run("a", 1, work)
    lane.forget()
    again, other = await lane.run("a", 1, work)
    assert tokens == again and pid != other
    lane.close()
    await until_async(lambda: not lane.process.pid)


async def test_whoever_leaves_ends_the_work_and_nobody_else_waits_for_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = TextLane(TextProcess(model), idle_s=0.0)
    await lane.run("a", 1, TextProcess.start)
    lane._stay()
    lane.process.start()
    hold(monkeypatch, lane.process.pid)
    left = asyncio.create_task(lane.run("a", 1, lambda process: process.encode(["hello"])))
    waits = asyncio.create_task(lane.run("b", 1, lambda process: process.encode(["hello"])))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert await waits == [Tokenizer.load(model).encode("hello")]
    await until_async(lambda: not lane.process.pid)  # it is idle, and gives its memory back


def vouched(folder: Path, model: Path, **changes: Any) -> Path:
    folder.mkdir()
    path = Path(shutil.copy(model, folder / "model.gguf"))
    file = ModelFile("model.gguf", path.stat().st_size, "0" * 64)
    manifest = Manifest("m", "s", "", "", "llama", None, "now", files=(file,), pinned=("model.gguf",))
    value = manifest.to_json() | changes
    Manifest(**value | {"files": (file,), "pinned": tuple(value["pinned"])}).write(folder)
    return path


def test_files_that_a_pinned_hash_vouches_for_stay_in_process(tmp_path: Path, model: Path) -> None:
    pinned = vouched(tmp_path / "pinned", model)
    assert is_vouched(pinned)
    assert Codec.load(pinned).process is None
    assert not is_vouched(vouched(tmp_path / "loose", model, pinned=()))
    with pinned.open("ab") as file:
        file.write(b"x")
    assert not is_vouched(pinned)


def test_any_other_file_runs_in_a_process_with_the_same_answers(model: Path, local: Tokenizer) -> None:
    codec = Codec.load(model)
    assert codec.process is not None
    template = ChatTemplate(TEMPLATE, local.bos_token, local.eos_token)
    here = Codec(local, template)
    messages = [{"role": "user", "content": "hello <|im_end|> 你"}]
    assert codec.encode("hello <think>") == here.encode("hello <think>")
    tokens = codec.encode_chat(messages)
    assert tokens == here.encode_chat(messages)
    assert codec.decode(tokens) == here.decode(tokens)
    assert [codec.token_bytes(i) for i in range(codec.vocab_size + 2)] == [
        here.token_bytes(i) for i in range(codec.vocab_size + 2)
    ]
    assert codec.dialect == here.dialect
    assert codec.template_variables == here.template_variables
    assert codec.control_token("<|im_end|>") == here.control_token("<|im_end|>")
    codec.process.close()

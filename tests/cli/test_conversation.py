"""Conversations with a model in this process, and Ctrl-C in the middle of an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.server.fakes import FakeEngine, make_codec

from deepwell.cli.answers import Asked, LocalAnswers
from deepwell.cli.chat import Conversation, is_stuck
from deepwell.engine.protocol import Delta, GenerateRequest
from deepwell.errors import ContextLengthExceeded
from deepwell.messages import say
from deepwell.models.store.sampling import SamplingDefaults

CHINESE = "请说你好"


class InterruptedEngine(FakeEngine):
    """Ctrl-C comes after three tokens of the first answer."""

    interrupted = False

    def generate_sync(self, request: GenerateRequest) -> Iterator[Delta]:
        for count, delta in enumerate(super().generate_sync(request)):
            if count == 3 and not self.interrupted:
                self.interrupted = True
                raise KeyboardInterrupt
            yield delta


def answers(engine: FakeEngine, folder: Path) -> LocalAnswers:
    return LocalAnswers(engine, make_codec(folder), "toy")


def test_parts_join_to_the_answer_and_the_last_one_reports(tmp_path: Path) -> None:
    asked = Asked([{"role": "user", "content": CHINESE}], temperature=0)
    parts = list(answers(FakeEngine(), tmp_path).stream(asked))
    assert "".join(part.text for part in parts) == CHINESE
    assert [part.report is None for part in parts] == [True] * (len(parts) - 1) + [False]
    report = parts[-1].report
    assert report and report.finish_reason == "stop"
    assert report.completion_tokens == len(CHINESE.encode()) + 1


def test_without_a_limit_the_rest_of_the_context_may_be_used(tmp_path: Path) -> None:
    engine = FakeEngine()
    list(answers(engine, tmp_path).stream(Asked([{"role": "user", "content": "a"}])))
    assert len(engine.seen[0].prompt) + engine.seen[0].params.max_tokens == engine.max_model_len


@pytest.mark.parametrize(("content", "max_tokens"), [("x" * 600, None), ("x", 512)])
def test_what_does_not_fit_is_refused(tmp_path: Path, content: str, max_tokens: int | None) -> None:
    asked = Asked([{"role": "user", "content": content}], max_tokens)
    with pytest.raises(ContextLengthExceeded):
        list(answers(FakeEngine(), tmp_path).stream(asked))


def test_ctrl_c_ends_the_answer_and_the_conversation_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(answers(InterruptedEngine(), tmp_path), "", temperature=0)
    conversation.run(iter(["abcdef", "next"]))
    assert capsys.readouterr().out == "abc [stopped]\nnext\n"
    assert [turn["content"] for turn in conversation.messages] == ["abcdef", "abc", "next", "next"]


def test_a_model_without_chinese_says_so_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    english = LocalAnswers(FakeEngine(), make_codec(tmp_path), "smollm2")
    Conversation(english, "", temperature=0).run(iter(["hello", CHINESE, CHINESE]))
    out, err = capsys.readouterr()
    assert out == f"hello\n{CHINESE}\n{CHINESE}\n"
    assert err.count("smollm2 不会中文") == 1 and "deepwell pull qwen2.5-coder-0.5b" in err


def test_a_model_that_may_know_chinese_is_not_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Conversation(answers(FakeEngine(), tmp_path), "", temperature=0).run(iter([CHINESE]))
    assert capsys.readouterr().err == ""


def test_a_model_in_this_process_has_its_defaults(tmp_path: Path) -> None:
    engine = FakeEngine()
    defaults = SamplingDefaults(0.7, 0.8, 20, repetition_penalty=1.1, source="catalog")
    local = LocalAnswers(engine, make_codec(tmp_path), "toy", defaults)
    list(local.stream(Asked([{"role": "user", "content": "a"}], temperature=0.3)))
    params = engine.seen[0].params
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (0.3, 0.8, 20, 1.1)


def test_a_cut_answer_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Conversation(answers(FakeEngine(), tmp_path), "", max_tokens=2, temperature=0).run(iter(["abcdef"]))
    assert capsys.readouterr().out == "ab\n(cut off after 2 tokens, by --max-tokens or the context)\n"


@pytest.mark.parametrize("piece", ["x", ", la République", "y" * 79 + "z"])
def test_an_answer_that_only_repeats_itself_is_stuck_after_800_characters(piece: str) -> None:
    text = "L'Étoile" + piece * 800
    assert is_stuck(text) and is_stuck(text[: 8 + len(piece) + 800])
    assert not is_stuck(piece * 800 + "and then it ends.")
    assert not is_stuck((piece * 800)[:799])


def test_long_lists_are_not_stuck() -> None:
    assert not is_stuck("\n".join(f"{number}. la République" for number in range(100)))
    assert not is_stuck(("y" * 80 + "z") * 20)


class StuckEngine(FakeEngine):
    """Repeats the question until the context is full."""

    def generate_sync(self, request: GenerateRequest) -> Iterator[Delta]:
        yield from super().generate_sync(replace(request, params=replace(request.params, ignore_eos=True)))


def test_an_answer_that_is_stuck_ends_with_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = StuckEngine(max_model_len=4096)
    talk = Conversation(answers(engine, tmp_path), "", temperature=0)
    talk.run(iter(["abcdef"]))
    assert capsys.readouterr().out.endswith(f"\n{say('answer_stuck')}\n")
    assert talk.messages == []
    assert 800 <= engine.steps < 1000


def test_a_stuck_answer_has_its_reason_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = StuckEngine(max_model_len=4096)
    Conversation(answers(engine, tmp_path), "", temperature=0, as_json=True).run(iter(["abcdef"]))
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "repetition"


def test_a_limit_of_the_user_is_kept_whatever_repeats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = StuckEngine(max_model_len=4096)
    Conversation(answers(engine, tmp_path), "", max_tokens=2000, temperature=0).run(iter(["abcdef"]))
    assert engine.steps == 2000 and say("answer_stuck") not in capsys.readouterr().out


def test_a_long_conversation_goes_on_and_says_what_is_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(answers(FakeEngine(), tmp_path), "", temperature=0, policy="auto")
    lines = [f"The ferry number {number} sails at noon." for number in range(12)]
    conversation.run(iter(lines))
    out = capsys.readouterr().out
    assert out.count("\n") > len(lines)
    assert "the conversation has outgrown the context" in out
    assert [turn["content"] for turn in conversation.messages[::2]] == lines


def test_a_text_longer_than_the_context_is_refused_with_what_reads_it(tmp_path: Path) -> None:
    asked = Asked([{"role": "user", "content": "It rained. " * 500}])
    with pytest.raises(ContextLengthExceeded, match="--file"):
        list(answers(FakeEngine(), tmp_path).stream(asked))


def test_a_book_is_answered_over_and_its_tokens_are_accounted_for(tmp_path: Path) -> None:
    book = "\n".join(f"Chapter {number} tells of tides." for number in range(60))
    question = "Which harbour closed?"
    text = f"{book}\nThe harbour of Ostrava closed.\n{book}\n\n{question}"
    engine = FakeEngine()
    asked = Asked([{"role": "user", "content": text}], 40, 0, policy="auto")
    report = list(answers(engine, tmp_path).stream(asked))[-1].report
    assert report is not None and report.context is not None
    said = make_codec(tmp_path).decode(list(engine.seen[0].prompt))
    assert "The harbour of Ostrava closed." in said and question in said
    assert report.context["original_tokens"] == len(make_codec(tmp_path).encode_chat(asked.messages))
    assert report.context["prompt_tokens"] == report.prompt_tokens == len(engine.seen[0].prompt)

"""Leaks: the system prompt in any dress, other people's data; and claims that no passage supports."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Sequence

import pytest

from deepwell.safety.findings import Decision, Finding
from deepwell.safety.grounding import Groundedness
from deepwell.safety.leaks import ForeignPersonal, SystemPromptLeak
from deepwell.safety.normalise import normalised
from deepwell.safety.personal import Personal
from deepwell.safety.streaming.rules import StreamRules
from deepwell.safety.streaming.scanner import StreamScanner

PROMPT = (
    "You are the support desk of the harbour office in Lindau. Never name the discount code ANCHOR17 before the third "
    "question. Answer about berths, tides and fees alone, and send everything else to the front desk."
)
CHINESE = (
    "你是林道港务处的客服。在客户第三次提问之前，绝不能透露折扣码锚十七。"
    "只回答泊位、潮汐和费用的问题，其他问题请转到前台处理。"
)


def leaks(answer: str, prompt: str = PROMPT, known: Sequence[str] = ()) -> list[Finding]:
    return SystemPromptLeak(prompt, known).scan(normalised(answer))


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: f"My instructions are: {text}",
        str.upper,
        lambda text: text[: len(text) // 2],
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: codecs.encode(text, "rot13"),
        lambda text: " ".join(word for at, word in enumerate(text.split()) if at % 10),
        lambda text: "\n".join(f"- {part}" for part in text.split(", ")),
    ],
)
def test_a_copied_system_prompt_is_found_in_any_dress(dress: Callable[[str], str]) -> None:
    found = leaks(dress(PROMPT))
    assert found and {(one.rule, one.category) for one in found} == {("leak.system_prompt", "leak")}


def test_a_chinese_prompt_is_found_and_the_span_is_the_copy() -> None:
    answer = f"好的，我的设定如下：{CHINESE}以上。"
    (finding,) = {(one.start, one.end) for one in leaks(answer, CHINESE)[:1]}
    assert answer[finding[0] : finding[1]].strip("。") in CHINESE
    assert finding[1] - finding[0] > 40


@pytest.mark.parametrize(
    "answer",
    [
        "In May, berths four and nine are free. A boat of nine metres pays 31 euros a night.",
        "I am the support desk of the harbour office, and can tell you about berths, tides and fees.",
        "",
        "泊位四和九在五月空闲。",
    ],
)
def test_an_answer_that_keeps_to_the_prompt_is_none(answer: str) -> None:
    assert leaks(answer) == []
    assert leaks(answer, CHINESE) == []


def test_what_the_user_said_or_a_passage_holds_is_no_leak() -> None:
    assert leaks(f"You wrote: {PROMPT}", known=[f"Is this right? {PROMPT}"]) == []


@pytest.mark.parametrize("prompt", ["", "You are a helpful assistant.", "你是一个助手。"])
def test_a_prompt_that_says_what_any_does_cannot_leak(prompt: str) -> None:
    assert leaks(f"{prompt} {prompt}", prompt) == []


def test_a_stream_that_begins_to_recite_the_prompt_is_ended() -> None:
    def decide(findings: Sequence[Finding], failed: Sequence[str]) -> Decision:
        return Decision("block", "output", tuple((one, "block") for one in findings), "", tuple(failed))

    plain = StreamRules([], decide)
    rules = plain.also([SystemPromptLeak(PROMPT)])
    assert plain.detectors == () and rules.lexicon is plain.lexicon
    scanner, out = StreamScanner(rules), ""
    for character in PROMPT * 2:
        out += scanner.push(character).text
        if scanner.ended:
            break
    assert scanner.ended
    assert len(out) < len(PROMPT)


def test_personal_data_that_nobody_named_is_foreign() -> None:
    detector = ForeignPersonal(Personal(), ["Write to anna.berg@example.org please.", "电话：138 1234 5678"])
    answer = "Anna's address is anna.berg@example.org, Tom's is tom.hill@example.net. 电话 13812345678。"
    found = detector.scan(normalised(answer))
    assert [(one.rule, answer[one.start : one.end]) for one in found] == [
        ("personal.foreign.email", "tom.hill@example.net")
    ]
    assert found[0].category == "personal"


def test_claims_that_no_passage_supports_are_found_with_their_characters() -> None:
    passages = ["The harbour opens at six in the morning.", "Berths cost 31 euros a night."]

    def support(claim: str, given: Sequence[str]) -> float:
        words = {word.strip(".,").lower() for word in claim.split()}
        return max(len(words & set(one.lower().strip(".").split())) / len(words) for one in given)

    opens, closes = "The harbour opens at six in the morning.", "It closes when the bells of midnight ring."
    answer = f"Here is what I found:\n{opens} {closes} Any more?"
    check = Groundedness(passages, support)
    grounded = check.check(answer)
    assert [claim.support >= 0.5 for claim in grounded.claims] == [True, False]
    assert 0.3 < grounded.share < 0.7
    (finding,) = check.scan(normalised(answer))
    assert answer[finding.start : finding.end].strip() == closes
    assert finding.category == "ungrounded"


def test_an_answer_that_claims_nothing_is_grounded() -> None:
    def never(claim: str, given: Sequence[str]) -> float:
        raise AssertionError(claim)

    assert Groundedness([], never).check("Sorry, I do not know.\nMay I help?").share == 1.0

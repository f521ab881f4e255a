"""The streaming scanner: no term leaves whole however the text is split, little is held, plain text leaves at once."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepwell.safety.findings import Action, Decision, Finding
from deepwell.safety.normalise import Normalised, normalised
from deepwell.safety.personal import Personal
from deepwell.safety.secrets import Secrets
from deepwell.safety.streaming.forms import Heads, held_values
from deepwell.safety.streaming.released import Released
from deepwell.safety.streaming.rules import HOLD_BACK, StreamRules
from deepwell.safety.streaming.scanner import StreamScanner
from deepwell.safety.terms.detector import Terms as RealTerms
from deepwell.safety.terms.lists import Term, TermList, term_key

ALLOWED = "法轮功能表"  # holds a term, and is none
TERMS = ["甲b丙2丁", "badger", "blue moon", "sly", "法轮功", "枪支", "blue moonlight hours", "瓷器店"]
PLAIN = [
    "The weather is fine today and nobody minds. ",
    "Sure, here is a list of things to do: 1. rest 2. read ",
    "今天天气很好，大家都去公园散步。",
    "slyly badgers bluebells bad blue moo 法轮 枪 瓷器",
    "def main(argument_one, argument_two): return argument_one.value + 42\n",
    "Call me at 42 or 1999, version 3.11.7. ",
]


class Terms:
    """Finds terms between the bounds of words in every reading."""

    name = "terms"

    def __init__(self, terms: Sequence[str]) -> None:
        ordered = sorted(terms, key=len, reverse=True)
        self.pattern = re.compile(
            "|".join(rf"(?<![a-z0-9]){t}(?![a-z0-9])" if t.isascii() else t for t in ordered)
        )

    def scan(self, text: Normalised) -> list[Finding]:
        found = {
            (view.span(*match.span()), view.name)
            for view in text.views
            for match in self.pattern.finditer(view.text)
        }
        return [Finding("terms.test", "test", *span, view=view) for span, view in sorted(found)]


class Digits:
    """Finds numbers of eight and more digits."""

    name = "digits"

    def scan(self, text: Normalised) -> list[Finding]:
        return [
            Finding("digits.long", "number", *match.span())
            for match in re.finditer(r"(?<!\d)\d{8,}(?!\d)", text.text)
        ]


class Slow:
    """Counts how often it is asked, and finds nothing."""

    name = "slow"

    def __init__(self) -> None:
        self.asked = 0

    def scan(self, text: Normalised) -> list[Finding]:
        self.asked += 1
        return []


class Broken:
    """Breaks."""

    name = "broken"

    def scan(self, text: Normalised) -> list[Finding]:
        raise RuntimeError("broken")


def deciding(action: Action):
    def decide(findings: Sequence[Finding], failed: Sequence[str]) -> Decision:
        return Decision(action, "output", tuple((one, action) for one in findings), "", tuple(failed))

    return decide


def rules(action: Action = "block", **kwargs) -> StreamRules:
    return StreamRules([Terms(TERMS), Digits()], deciding(action), terms=TERMS, **kwargs)


BLOCK, REDACT, FLAG = rules("block"), rules("redact"), rules("flag")


def streamed(made: StreamRules, pieces: Sequence[str]) -> tuple[str, list[Released]]:
    """Returns what left, and every answer of the scanner."""
    scanner = StreamScanner(made)
    answers: list[Released] = []
    for piece in pieces:
        answers.append(scanner.push(piece))
        assert scanner.held <= HOLD_BACK or scanner.ended
        if scanner.ended:
            break
    else:
        answers.append(scanner.finish())
    return "".join(answer.text for answer in answers), answers


def halves(text: str, at: int) -> list[str]:
    return [text[:at], text[at:]]


def embedded(chance: random.Random) -> tuple[str, str, int, int]:
    """Returns a text with a term, the term, and the places at which it begins and ends."""
    term = chance.choice(TERMS)
    before, after = (chance.choice(PLAIN)[: chance.randrange(60)] for _ in range(2))
    left, right = (" ", " ") if term.isascii() else ("", "")
    text = before + left + term + right + after
    start = len(before) + len(left)
    return text, term, start, start + len(term)


def test_no_term_leaves_whole_at_any_split_of_500_texts() -> None:
    chance = random.Random(7)
    for _ in range(500):
        text, term, start, end = embedded(chance)
        for at in range(max(start - 1, 0), min(end + 2, len(text) + 1)):
            out, answers = streamed(BLOCK, halves(text, at))
            assert answers[-1].ended
            assert text.startswith(out)
            assert len(out) <= start
            assert not Terms([term]).pattern.search(out.casefold() + " ")


def test_no_term_leaves_whole_character_by_character() -> None:
    chance = random.Random(8)
    for _ in range(200):
        text, *_ = embedded(chance)
        out, answers = streamed(BLOCK, text)
        assert answers[-1].ended
        assert out == text[: Terms(TERMS).scan(BLOCK.normalise(text))[0].start]


@pytest.mark.parametrize(
    "disguise",
    [
        "BADGER",
        "b a d g e r",
        "ｂａｄｇｅｒ",
        "bad\u200bger",
        "b-a-d-g-e-r",
        "b4dg3r",
        "bädger",
        "b\u0430dger",
        "法-轮-功",
        "法 轮\u200b功",
        "法輪功",
        "瓷 器 店",
        "甲-b-丙-2-丁",
        "blue   moon",
    ],
)
def test_a_disguised_term_does_not_leave_whole_at_any_split(disguise: str) -> None:
    own = TermList("own", [Term(term_key(term), "test", "block") for term in TERMS], "", "", "")
    detector = RealTerms([own])
    rules = StreamRules([detector], deciding("block"), terms=detector.texts("block"))
    before = "see: " if disguise[0] < "\u2e80" else "看："
    text = f"{before}{disguise} 。"
    (found,) = {(one.start, one.end) for one in detector.scan(normalised(text))}
    assert found == (len(before), len(before) + len(disguise))
    for pieces in (list(text), *(halves(text, at) for at in range(len(text) + 1))):
        out, answers = streamed(rules, pieces)
        assert answers[-1].ended, pieces
        assert out == before


texts = st.lists(
    st.sampled_from([*TERMS, *PLAIN, " ", ", ", "。", "1", "12345678", "b", "法", "\u200b", "a@b.cn", "\n"]),
    max_size=12,
).map("".join)


@given(texts, st.lists(st.integers(1, 40), max_size=30))
def test_any_split_ends_at_the_same_place(text: str, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    out, answers = streamed(BLOCK, [*pieces, text[at:]])
    found = [*Terms(TERMS).scan(BLOCK.normalise(text)), *Digits().scan(BLOCK.normalise(text))]
    if not found:
        assert out == text
        assert answers[-1].decision is None
    else:
        assert answers[-1].ended
        assert text.startswith(out)
        assert all(len(out) < one.end for one in found)


@given(texts, st.lists(st.integers(1, 40), max_size=30))
def test_any_split_redacts_the_same(text: str, sizes: list[int]) -> None:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    out, _ = streamed(REDACT, [*pieces, text[at:]])
    assert out == streamed(REDACT, [text])[0]
    assert not Digits().scan(REDACT.normalise(out))


@given(texts)
def test_flagged_text_passes_unchanged(text: str) -> None:
    out, answers = streamed(FLAG, text)
    assert out == text
    found = {one.start for one in Terms(TERMS).scan(FLAG.normalise(text))}
    told = {
        one.start
        for answer in answers
        if answer.decision
        for one, _ in answer.decision.findings
        if one.category == "test"
    }
    assert told == found


@given(st.text(max_size=300), st.integers(1, 50))
def test_text_without_terms_arrives_whole(text: str, size: int) -> None:
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    out, answers = streamed(BLOCK, pieces)
    if not answers[-1].ended:
        assert out == text


@pytest.mark.parametrize("first", ["Hello", "The", " I", "Sure", "好的", "今天", "```"])
def test_a_token_that_begins_nothing_leaves_at_once(first: str) -> None:
    assert StreamScanner(BLOCK).push(first) == Released(first)


@pytest.mark.parametrize(
    ("begun", "next_one", "left"),
    [("bad", "ly", "badly"), ("法轮", "船", "法轮船"), ("1234", ".", "1234."), ("sly", "er", "slyer")],
)
def test_what_may_begin_a_term_waits_for_the_next_character(begun: str, next_one: str, left: str) -> None:
    scanner = StreamScanner(BLOCK)
    assert scanner.push(begun).text == ""
    assert scanner.held == len(begun)
    out = scanner.push(next_one).text
    assert out + scanner.finish().text == left


def test_a_term_within_one_that_is_allowed_passes() -> None:
    class Allowing(Terms):
        def scan(self, text: Normalised) -> list[Finding]:
            return [one for one in super().scan(text) if not text.text.startswith(ALLOWED, one.start)]

    made = StreamRules([Allowing(TERMS)], deciding("block"), terms=[*TERMS, ALLOWED])
    text = f"打开{ALLOWED}。"
    assert all(streamed(made, halves(text, at))[0] == text for at in range(len(text)))
    assert streamed(made, text)[0] == text
    assert streamed(made, "打开法轮功能器")[0] == "打开"


@pytest.mark.parametrize("text", ["ｂａｄｇｅｒｌｙ", "яbadgerly", "sly\u200bly"])
def test_a_longer_word_is_waited_for_in_any_width(text: str) -> None:
    for at in range(len(text)):
        assert streamed(BLOCK, halves(text, at))[0] == text


def test_the_decision_names_characters_of_the_whole_stream() -> None:
    scanner = StreamScanner(FLAG)
    text = PLAIN[0] * 300 + "a badger came. " + PLAIN[0]
    decisions = [scanner.push(text[at : at + 7]).decision for at in range(0, len(text), 7)]
    (decision,) = [one for one in [*decisions, scanner.finish().decision] if one]
    ((finding, action),) = decision.findings
    assert (text[finding.start : finding.end], action) == ("badger", "flag")


def test_a_redacted_span_is_replaced_once() -> None:
    assert streamed(REDACT, "My number is 1234567890, a badger told me.")[0] == (
        "My number is [number], a [test] told me."
    )


def test_a_number_longer_than_the_hold_back_is_replaced_as_a_whole() -> None:
    out, _ = streamed(REDACT, "No. " + "7" * 150 + " it is")
    assert out == "No. [number] it is"


PERSONS = [
    "13812345678",
    "138 1234 5678",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "11010519491231002X",
    "121.40.10.24",
    "+49 170 1234567",
]
KEY = (
    "-----BEGIN PRIVATE KEY-----\n"
    + "\n".join(f"MIIEvQIBADANBgkqhkiG9w0BAQEFAASC{at}" for at in range(10, 60))
    + ("\n-----END PRIVATE KEY-----")
)
DATA = StreamRules(
    [Personal(), Secrets()],
    deciding("redact"),
    values=held_values(lambda _: True),
    replacement=lambda finding: "▮",
)


@pytest.mark.parametrize("value", PERSONS)
@pytest.mark.parametrize(("before", "after"), [("Her number is ", " and so on."), ("电话：", "，谢谢。")])
def test_numbers_of_persons_are_redacted_alike_at_every_split(value: str, before: str, after: str) -> None:
    text = before + value + after
    for pieces in ([text], list(text), *(halves(text, at) for at in range(len(text) + 1))):
        assert streamed(DATA, pieces)[0] == f"{before}▮{after}", pieces


def _made(alphabet: str, count: int) -> str:
    return "".join(random.Random(count).choices(alphabet, k=count))


LETTERS = "abcdefghjkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
VALUES = [
    *PERSONS,
    "annaberg@example.org",
    "anna-maria.o'neil+news@mail.example.co.uk",
    "ａｎｎａ@example.org",
    "DE89 3704 0044 0532 0130 00",
    "GB29 NWBK 6016 1331 9268 19",
    "2001:db8::1ff:fe23:4567:890a",
    "aa:bb:cc:dd:ee:ff",
    "京A·12345",
    "AKIA" + _made("ABCDEFGHIJKLMNOPQRSTUVWXYZ", 16),
    "sk-" + _made(LETTERS, 48),
    "sk-proj-" + _made(LETTERS + "0123456789", 40),
    "hf_" + _made(LETTERS, 34),
    "ghp_" + _made(LETTERS, 36),
    "glpat-" + _made(LETTERS, 20),
    "xoxb-" + _made("123456789", 12) + "-" + _made(LETTERS, 24),
    "LTAI" + _made(LETTERS, 20),
]
"""Values of at most 64 characters: none of their letters and digits leaves."""

LED = [
    ("password: ", "hunter2xqz"),
    ("the token: ", "qwErtzuiopas1"),
    ("密码是", "correcthorse8battery"),
    ("aws secret access key = ", _made(LETTERS + "0123456789/+", 40)),
    ("see https://", "anna:s3cretWord@db.internal"),
    ("微信号: ", "annaberg_zh"),
    ("寄到北京市朝阳区建国路", "88号3单元502室"),
]
"""Words that say what follows, which may leave, and values, which do not."""

LONG = [
    ("a.very.long.name.of.somebody.who.has.many.names.and.likes.dots.x@example.org", 16),
    ("github_pat_" + _made(LETTERS, 22) + "_" + _made(LETTERS, 59), 0),
    ("AccountKey=" + _made(LETTERS, 86), 0),
    ("dop_v1_" + _made("0123456789abcdef", 64), 0),
    ("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NSJ9." + _made(LETTERS, 43), 0),
    ("pypi-AgE" + _made(LETTERS, 150), 0),
]
"""Values of more than 64 characters, and how many of their first may leave before they are known."""


def left_of(value: str, out: str) -> str:
    """Returns the longest beginning of a value with which a text begins."""
    return next(value[:end] for end in range(len(value), -1, -1) if out.startswith(value[:end]))


def splits(text: str) -> list[list[str]]:
    """Returns a text whole, by the character, by tokens of some lengths, and in two at every place."""
    cut = [[text[at : at + size] for at in range(0, len(text), size)] for size in (1, 2, 3, 5, 7, 39)]
    return [[text], *cut, *(halves(text, at) for at in range(1, len(text)))]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(("before", "after"), [("It is (", ") for sure."), ("就是：", "，谢谢。")])
def test_no_character_of_a_value_leaves_at_any_split(value: str, before: str, after: str) -> None:
    for pieces in splits(before + value + after):
        assert streamed(DATA, pieces)[0] == f"{before}▮{after}", pieces


@pytest.mark.parametrize(("lead", "value"), LED)
@pytest.mark.parametrize("after", [" for sure.", "，谢谢。"])
def test_no_character_of_a_value_leaves_behind_words_that_lead_to_it(
    lead: str, value: str, after: str
) -> None:
    for pieces in splits(lead + value + after):
        out = streamed(DATA, pieces)[0]
        assert out.endswith(f"▮{after}"), pieces
        assert lead.startswith(out.removesuffix(f"▮{after}")), pieces


@pytest.mark.parametrize(("value", "most"), LONG)
def test_of_a_value_longer_than_the_hold_back_no_more_leaves_than_must(value: str, most: int) -> None:
    assert len(value) > HOLD_BACK
    for pieces in splits(f"It is {value} for sure."):
        out = streamed(DATA, pieces)[0]
        left = left_of(value, out.removeprefix("It is "))
        assert len(left) <= most and out == f"It is {left}▮ for sure.", pieces


@given(
    st.lists(st.sampled_from([*VALUES, *PLAIN, " ", ", ", "。", "and ", "的"]), max_size=8),
    st.lists(st.integers(1, 40), max_size=30),
)
def test_what_leaves_holds_no_value_at_any_split(parts: list[str], sizes: list[int]) -> None:
    text = " and ".join(parts)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    out, _ = streamed(DATA, [*pieces, text[at:]])
    told = normalised(out)
    assert not Personal().scan(told) and not Secrets().scan(told)


def test_a_value_that_a_word_behind_it_decides_about_waits_for_the_word() -> None:
    text = "My number E12345678 (passport) it is"
    for pieces in splits(text):
        assert streamed(DATA, pieces)[0] == "My number ▮ (passport) it is", pieces


@pytest.mark.parametrize(
    ("tokens", "left"),
    [
        (["Hello", " there", ", we"], ["", "Hello ", "there, "]),
        (["我们", "的", "天气"], ["我们", "的", "天气"]),
    ],
)
def test_a_word_leaves_once_it_can_be_no_address(tokens: list[str], left: list[str]) -> None:
    scanner = StreamScanner(DATA)
    assert [scanner.push(token).text for token in tokens] == left


def test_words_leave_at_once_where_only_secrets_act() -> None:
    made = StreamRules(
        [Secrets()], deciding("redact"), values=held_values(lambda one: one.category == "secret")
    )
    scanner = StreamScanner(made)
    tokens = ["Hello", " there", ",", " annaberg", " wrote", "."]
    assert [scanner.push(token).text for token in tokens] == tokens


@pytest.mark.parametrize("size", [1, 5, 40, 300])
def test_a_key_of_many_lines_does_not_pass_behind_its_first(size: int) -> None:
    text = f"Here you are: {KEY}\nKeep it safe, please."
    out, _ = streamed(DATA, [text[at : at + size] for at in range(0, len(text), size)])
    assert "MIIE" not in out
    assert out.endswith("Keep it safe, please.")


def test_slow_detectors_are_asked_now_and_then_and_at_the_end() -> None:
    slow = Slow()
    made = rules("block", sampled=[slow])
    streamed(made, PLAIN[0] * 40)
    assert 2 <= slow.asked <= len(PLAIN[0] * 40) / 300


def test_a_detector_that_breaks_is_told_once_to_the_policy() -> None:
    made = StreamRules([Broken()], deciding("flag"))
    _, answers = streamed(made, [PLAIN[0]] * 20)
    told = [answer.decision.failed for answer in answers if answer.decision]
    assert told == [("broken",)]


def test_a_failure_that_blocks_ends_the_stream() -> None:
    made = StreamRules([Broken()], deciding("block"))
    _, answers = streamed(made, [PLAIN[0]] * 20)
    assert answers[-1].ended


@pytest.mark.parametrize("where", ["detectors", "sampled"])
def test_nothing_leaves_where_a_detector_breaks_on_every_text(where: str) -> None:
    broken = [Broken()]
    made = StreamRules(
        broken if where == "detectors" else [],
        deciding("block"),
        sampled=broken if where == "sampled" else [],
    )
    out, answers = streamed(made, list("Short."))
    assert (out, answers[-1].ended) == ("", True)


def test_a_slow_detector_does_not_judge_a_first_token_alone() -> None:
    made = StreamRules([], deciding("block"), sampled=[Terms(["kill"])])
    out, _ = streamed(made, ["Kill", "ing a process takes one command."])
    assert out == "Killing a process takes one command."
    assert streamed(made, ["kill"])[1][-1].ended


def test_nothing_can_be_pushed_behind_the_end() -> None:
    scanner = StreamScanner(BLOCK)
    assert scanner.push("a badger. ").ended
    with pytest.raises(ValueError, match="ended"):
        scanner.push("more")
    with pytest.raises(ValueError, match="ended"):
        scanner.finish()


@pytest.mark.parametrize("lines", [90, 180, 230])
def test_a_long_key_is_redacted_to_its_last_line(lines: int) -> None:
    """The first line was once forgotten behind 8,192 characters, and the rest of the key left."""
    key = (
        "-----BEGIN " + "PRIVATE KEY-----\n" + ("QUJD" * 16 + "\n") * lines + "-----END " + "PRIVATE KEY-----"
    )
    text = f"Here: {key} and so on."
    scanner = StreamScanner(StreamRules([Secrets()], deciding("redact")))
    told = "".join(scanner.push(text[at : at + 40]).text for at in range(0, len(text), 40))
    told += scanner.finish().text
    assert "QUJD" not in told and told.startswith("Here: [") and told.endswith("and so on.")


def test_a_paused_stream_knows_what_it_said_before() -> None:
    scanner = StreamScanner(StreamRules([Terms(["blue moon"])], deciding("block"), terms=["blue moon"]))
    told = scanner.push("so blue").text + scanner.pause().text
    assert told == "so blue"
    released = scanner.push(" moon, and more")
    assert released.ended and "moon" not in released.text


ENDS = StreamRules(
    [Personal(), Secrets()],
    deciding("redact"),
    values=held_values(lambda _: True),
    endings=[Heads(lambda _: True)],
    replacement=lambda finding: "▮",
)
DIGITS = "0123456789"
KEYS = [
    ("AKIA", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", 16),
    ("sk-", LETTERS + DIGITS, 48),
    ("sk-proj-", LETTERS + DIGITS, 100),
    ("sk-ant-api03-", LETTERS + DIGITS, 93),
    ("hf_", LETTERS, 34),
    ("ghp_", LETTERS + DIGITS, 36),
    ("github_pat_", LETTERS + DIGITS, 22),
    ("glpat-", LETTERS + DIGITS, 20),
    ("npm_", LETTERS + DIGITS, 36),
    ("pypi-AgE", LETTERS + DIGITS, 90),
    ("xoxb-", DIGITS, 12),
    ("sk_live_", LETTERS + DIGITS, 24),
    ("AIza", LETTERS + DIGITS, 35),
    ("GOCSPX-", LETTERS + DIGITS, 28),
    ("LTAI", LETTERS + DIGITS, 20),
    ("123456789:AA", LETTERS + DIGITS, 33),
    ("dop_v1_", "0123456789abcdef", 64),
    ("AccountKey=", LETTERS + DIGITS, 86),
    ("eyJ", LETTERS + DIGITS, 90),
    ("aws_secret_access_key = ", LETTERS + DIGITS + "/+", 40),
    ("password: ", LETTERS + DIGITS, 20),
    ("app_secret: ", "0123456789abcdef", 32),
    ("redis://anna:", LETTERS + DIGITS, 20),
]
"""Prefixes of keys, and the characters behind them."""
NUMBERS = [
    ("身份证号是", "11010519491231002X", 6),
    ("My identity card: ", "11010519491231002X", 6),
    ("就是", "11010519491231002X", 7),
    ("Her phone number is ", "13812345678", 6),
    ("就是", "13812345678", 7),
    ("Call +", "491701234567", 6),
    ("My card: ", "4111111111111111", 6),
    ("就是", "6217001234567890122", 10),
    ("My card: ", "4111 1111 1111 1111", 6),
    ("The IBAN: ", "DE89 3704 0044 0532 0130 00", 8),
    ("SSN ", "512-34-5678", 6),
    ("护照号码：", "E12345678", 5),
    ("车牌号", "京A12345", 4),
    ("车牌号", "京AD12345", 4),
    ("统一社会信用代码", "91110000600037341L", 8),
    ("MAC ", "aa:bb:cc:dd:ee:ff", 8),
    ("The server's address is ", "203.0.113.77", 4),
]
"""Words, a number, and how many of its letters and digits may leave where an answer ends within it."""


def ended(text: str) -> str:
    """Returns what leaves of an answer that ends so, which is the same however it comes but for words that lead to a value."""
    outs = [
        streamed(ENDS, [text[at : at + size] for at in range(0, len(text), size)])[0] for size in (1, 400)
    ]
    assert len({out.rpartition("▮")[2] for out in outs}) == 1, outs
    return outs[0]


@pytest.mark.parametrize(("fixed", "alphabet", "count"), KEYS)
def test_no_more_than_4_characters_of_a_key_leave_wherever_the_answer_ends(
    fixed: str, alphabet: str, count: int
) -> None:
    secret = _made(alphabet, count)
    for end in (*range(3, 8), *range(8, count, 9), count - 1):
        for behind in ("", '"}', "`.\n```")[: 3 if end in (4, 5, 8) else 1]:
            out = ended(f"It is {fixed}{secret[:end]}{behind}")
            assert (secret[:5] not in out) if end > 4 else (out == f"It is {fixed}{secret[:end]}{behind}"), (
                out
            )


@pytest.mark.parametrize(("words", "number", "most"), NUMBERS)
def test_the_head_of_a_number_leaves_and_no_more_wherever_the_answer_ends(
    words: str, number: str, most: int
) -> None:
    for end in range(1, len(number) + 1):
        out = ended(words + number[:end])
        begun = sum(map(str.isalnum, number[:end]))
        assert out == (words + number[:end] if begun <= most else out.partition("▮")[0] + "▮"), out
        assert begun <= most or sum(map(str.isalnum, left_of(number, out.removeprefix(words)))) == 0, out


@pytest.mark.parametrize(
    "text",
    [
        "It was founded in 1998",
        "It costs $1299.99",
        "the population is 8045311447",
        "2^32 = 4294967296",
        "12! = 479001600",
        "pi is about 3.1415926535",
        "0.1666667",
        "Install sk-learn",
        "set `hf_token`.",
        "the key begins with sk-ant-api03-",
        "npm i react@latest",
        "use Python 3.11.4",
        "open http://localhost:8080",
        "the password: required",
        "at 12:30:45",
        "on 2024-05-17",
        '{"created": 1733200000}',
        "1000000+2000000",
        "全新C919",
        "一共 1200 元",
        "AKIAIOSFODNN7EXAMPLE",
        "They live at 10",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_an_ordinary_end_leaves_as_it_is(text: str) -> None:
    assert ended(text) == text


def test_a_value_that_was_broken_off_leaves_nothing_when_the_text_goes_on() -> None:
    scanner = StreamScanner(ENDS)
    out = scanner.push("It is sk-ant-api03-AbCdEfGh").text + scanner.pause().text
    out += scanner.push("iJkLmNoPqRsTuVwXyZ0123 for sure.").text + scanner.finish().text
    assert out == "It is ▮ for sure."


def test_where_a_term_blocks_the_value_in_front_of_it_does_not_leave() -> None:
    made = StreamRules(
        [Terms(["枪支"]), Secrets()],
        lambda found, failed: Decision("block", "output", tuple((one, "block") for one in found)),
        terms=["枪支"],
        values=held_values(lambda _: True),
        endings=[Heads(lambda _: True)],
    )
    out, answers = streamed(made, list("It is sk-ant-api03-AbCdEfGh枪支"))
    assert answers[-1].ended and out.startswith("It is [") and "AbCdE" not in out

"""Reading of answers and passages: language, sentences with offsets, content words, numbers and names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "AnswerLanguage",
    "Sentence",
    "content_words",
    "digits",
    "is_negated",
    "language_of",
    "names",
    "numbers",
    "plain",
    "sentences",
    "without_marks",
]

AnswerLanguage = Literal["en", "zh"]
"""The language of an answer: Chinese where the question has Chinese characters, English for every other question."""

_HAN: Final = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_HAN_RUN: Final = re.compile(rf"[{_HAN}]+")
_WORD: Final = re.compile(r"[a-z0-9]+(?:[._'-][a-z0-9]+)*")
_MARK: Final = re.compile(r"\s*[\[【]\s*(\d{1,3}(?:\s*[,，、]\s*\d{1,3})*)\s*[\]】]")
_NUMBER: Final = re.compile(r"(?<![a-z0-9.])[-+−]?\d+(?:[.,:/-]\d+)*", re.IGNORECASE)
_LIST_NUMBER: Final = re.compile(
    r"^\s*(?:[-*•]|\(?\d{1,2}[.)、](?!\d)|第[一二三四五六七八九十]+[步条]?[、：:])\s*"
)
_FENCE: Final = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)
_ENDS: Final = "。！？；!?…"
_CLOSERS: Final = "\"'”’」』》）)]"
_ABBREVIATIONS: Final = frozenset(
    "e.g i.e etc vs cf mr mrs ms dr prof no nos fig figs sec secs ch art arts vol pp st jr sr inc ltd co corp dept est approx"
    " al a.m p.m u.s u.k jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_STOP: Final = frozenset(
    """
    a an the this that these those it its is are was were be been being am do does did done has have had having
    will would shall should can could may might must and or but if then so as at by for from in into of off on
    onto out over to up with within without about above after again all also any because before below between
    both during each few further just more most other own same some such than too under until very not no nor
    only which what who whom whose when where why how whether there here i you he she we they me him her us them
    my your his our their one ones therefore thus according passage answer question stated states says
    """.split()
)
_STOP_HAN: Final = re.compile(
    "请问|什么|怎么样|怎么|怎样|如何|哪些|哪个|哪种|哪一|为何|是否|是不是|有没有|能否|可否|多少|可以|根据|段落|答案|问题"
    "|的|了|是|在|和|与|或|及|就|都|而|被|把|将|其|该|此|这|那|吗|呢|吧|着|也|会|要|为|以|于|由|从|到|对|用|时|中|您|你|我|它|他"
)
_NUMBER_WORDS: Final = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
}  # fmt: skip
_HAN_NUMBERS: Final = {"零": "0", "一": "1", "二": "2", "两": "2", "三": "3", "四": "4", "五": "5", "六": "6", "七": "7",
                       "八": "8", "九": "9", "十": "10"}  # fmt: skip
_HAN_NUMBER: Final = re.compile(
    r"(?<![一二三四五六七八九十百千万零两])[零一二两三四五六七八九十](?![一二三四五六七八九十百千万零两])"
)
_NEGATION: Final = re.compile(
    r"\b(?:not|no|never|none|cannot|without|neither|nor)\b|n't\b|不|没|无法|未|勿|禁止|非必", re.IGNORECASE
)
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._+/-][A-Za-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence, list item, line of code block or heading of a text.

    Attributes:
        text: its characters without white space around them and without marks such as `[1]`.
        start, end: offsets in the whole text, marks included.
        cited: numbers of the marks in it and directly behind it.
        code: true for a fenced block of code, which is one sentence.
    """

    text: str
    start: int
    end: int
    cited: tuple[int, ...] = ()
    code: bool = False


def language_of(text: str) -> AnswerLanguage:
    """Returns "zh" if at least a fifth of a text's letters are Chinese characters, else "en"."""
    letters = [one for one in text if one.isalpha()]
    han = sum(1 for one in letters if _HAN_RUN.match(one))
    return "zh" if letters and 5 * han >= len(letters) else "en"


def plain(text: str) -> str:
    """Returns a text with one form of each character, in lower case."""
    return unicodedata.normalize("NFKC", text).casefold()


def without_marks(text: str) -> str:
    """Returns a text without citation marks such as `[1]` and `[1, 2]`."""
    return _MARK.sub("", text)


def sentences(text: str) -> list[Sentence]:
    """Splits a text at the ends of sentences and lines. Abbreviations, decimals and fenced code are not cut.

    A mark of a citation that follows the end of a sentence belongs to that sentence.
    """
    found: list[Sentence] = []
    for start, end, code in _spans(text):
        raw = text[start:end]
        start += len(raw) - len(raw.lstrip())
        inner = raw if code else without_marks(raw)
        marks = () if code else tuple(dict.fromkeys(_cited(raw)))
        stripped = inner.strip()
        if not stripped or not any(one.isalnum() for one in stripped):
            if marks and found and not found[-1].code:  # marks behind no word
                last = found[-1]
                cited = tuple(dict.fromkeys((*last.cited, *marks)))
                whole = without_marks(text[last.start : end]).strip()
                found[-1] = Sentence(whole, last.start, end, cited)
            continue
        found.append(Sentence(stripped, start, end, marks, code))
    return found


def content_words(text: str) -> list[str]:
    """Returns the words that carry meaning: English words without stop words and endings, Chinese as pairs of characters.

    Number words up to twelve are returned as digits.
    """
    whole = plain(text)
    found: list[str] = []
    for match in _WORD.finditer(whole):
        word = match.group()
        if word in _NUMBER_WORDS:
            found.append(_NUMBER_WORDS[word])
        elif word not in _STOP:
            found.append(_stem(word))
    for match in _HAN_RUN.finditer(whole):
        for run in _STOP_HAN.split(match.group()):
            found += [run[at : at + 2] for at in range(max(1, len(run) - 1))] if run else []
    return found


def numbers(text: str) -> set[str]:
    """Returns the numbers of a text as they are written, signs aside; number words up to twelve as digits.

    The number in front of a list item does not count.
    """
    whole = plain(_LIST_NUMBER.sub("", text))
    found = {_number(match.group()) for match in _NUMBER.finditer(whole)}
    found |= {_NUMBER_WORDS[word] for word in _WORD.findall(whole) if word in _NUMBER_WORDS}
    return found | {_HAN_NUMBERS[one] for one in _HAN_NUMBER.findall(whole)}


def digits(text: str) -> set[str]:
    """Returns the numbers that are written in digits, without those in front of list items."""
    return {_number(match.group()) for match in _NUMBER.finditer(plain(_LIST_NUMBER.sub("", text)))}


def names(text: str) -> set[str]:
    """Returns words that stand for themselves: identifiers, keys, capitalised words inside a sentence, quoted Chinese terms.

    In Chinese every Latin word is one. They are returned in lower case.
    """
    found: set[str] = set()
    body = _LIST_NUMBER.sub("", unicodedata.normalize("NFKC", text))
    chinese = language_of(body) == "zh"
    for match in _NAME.finditer(body):
        word = match.group()
        first = not body[: match.start()].strip(" \"'“‘(「")
        inner = word[1:] != word[1:].lower() or any(one.isdigit() for one in word) or "_" in word
        capital = word[0].isupper() and not first and word not in ("I", "A")
        if (chinese or inner or capital) and word.casefold() not in _STOP:
            found.add(word.casefold())
    return found


def is_negated(text: str) -> bool:
    """Returns whether a text denies something."""
    return _NEGATION.search(plain(text)) is not None


def _spans(text: str) -> Iterator[tuple[int, int, bool]]:
    """Yields start, end and kind of the pieces, which together hold all text but white space."""
    at = 0
    while at < len(text):
        fence = _FENCE.search(text, at)
        yield from (
            (start, end, False) for start, end in _prose(text, at, fence.start() if fence else len(text))
        )
        if fence is None:
            return
        close = re.compile(rf"^[ \t]*{fence.group(1)}[ \t]*$", re.MULTILINE).search(text, fence.end())
        at = close.end() if close else len(text)
        yield fence.start(), at, True


def _prose(text: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
    at = start
    while at < stop:
        line = text.find("\n", at, stop)
        end_of_line = stop if line < 0 else line
        while at < end_of_line:
            end = _end_of_sentence(text, at, end_of_line)
            yield at, end
            at = end
        at = end_of_line + 1


def _end_of_sentence(text: str, start: int, stop: int) -> int:
    """Returns the offset behind the first sentence of a line, its closing quotes and its marks included."""
    for at in range(start, stop):
        one = text[at]
        if one not in _ENDS and one != ".":
            continue
        end = at + 1
        while end < stop and text[end] in _ENDS + "." + _CLOSERS and text[end] != "]":
            end += 1
        if one == "." and not _ends_here(text, start, at, end, stop):
            continue
        if (
            one in "!?"
            and end < stop
            and not text[end].isspace()
            and not _wide(text[end])
            and text[end] != "["
        ):
            continue
        while end < stop and (mark := _MARK.match(text, end, stop)):
            end = mark.end()
        return end
    return stop


def _ends_here(text: str, start: int, at: int, end: int, stop: int) -> bool:
    """Returns whether the full stop at `at` ends a sentence."""
    if end >= stop or _MARK.match(text, end, stop):
        following = text[end:stop]
        rest = _MARK.sub("", following).lstrip() if following else ""
        return not rest or not rest[0].islower()
    if not text[end].isspace() and not _wide(text[end]):
        return False
    before = text[start:at].split()
    word = before[-1].strip("(\"'“[").casefold() if before else ""
    if word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and len(before) > 1):
        return False
    if word.isdigit() and len(before) == 1:  # the number of a list item
        return False
    rest = text[end:stop].lstrip()
    return not rest or not rest[0].islower()


def _wide(one: str) -> bool:
    return unicodedata.east_asian_width(one) in ("W", "F")


def _cited(text: str) -> Iterator[int]:
    for match in _MARK.finditer(text):
        yield from (int(one) for one in re.findall(r"\d+", match.group(1)))


def _number(text: str) -> str:
    bare = text.lstrip("+-−")
    return bare.replace(",", "") if re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", bare) else bare


def _stem(word: str) -> str:
    """Strips the endings of plural, past and -ing. Both sides of a comparison pass through it, so that errors are alike."""
    if not word.isalpha() or len(word) < 4:
        return word
    for ending, least in (("ies", 5), ("ing", 6), ("ed", 5), ("es", 5), ("s", 4), ("ly", 6)):
        if word.endswith(ending) and len(word) >= least and not word.endswith(("ss", "us", "is")):
            word = word[: -len(ending)] + ("y" if ending == "ies" else "")
            break
    return word[:-1] if len(word) > 4 and (word.endswith("e") or word[-1] == word[-2]) else word

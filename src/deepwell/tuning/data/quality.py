"""Signs of poor text, each with a name. All are guesses: `FILTERS` has the limits of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from deepwell.tuning.data.records import Record, content_text

__all__ = ["FILTERS", "Finding", "QualityLimits", "quality_findings"]

FILTERS = ("short", "long", "repeated_lines", "repeated_words", "symbols", "truncated", "garbled")
"""Names of the filters.

- `short`: few words. Also finds good answers of a word; set `min_words` to 1 for classes.
- `long`: very many characters, not tokens; `deepwell data check --model` counts tokens.
- `repeated_lines`, `repeated_words`: lines, and runs of five words, that come again. Also find verse, tables, and logs.
- `symbols`: more signs than letters. Also finds formulas and tables; text within code fences does not count.
- `truncated`: an answer that stops in the middle of a sentence. Does not judge answers of fewer than 20 words, code, lists,
  and languages that end sentences without a sign.
- `garbled`: characters that a wrong encoding leaves. Finds UTF-8 read as Latin-1 or GBK, replacement characters, and control
  characters; text that was decoded wrongly in other ways looks like a foreign language.
"""


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """Limits of the filters.

    Attributes:
        min_words: words, or characters of Han, that a record has at least, without its system message.
        max_characters: characters that a record has at most.
        max_repeated_lines: share of lines that are repetitions, of texts with four lines and more (Rae et al. 2021, table A1).
        max_repeated_words: share of runs of five words that are repetitions, of texts with 50 words and more.
        max_symbols: share of characters that are neither letters, digits nor blanks, of texts with 40 characters and more.
    """

    min_words: int = 3
    max_characters: int = 100_000
    max_repeated_lines: float = 0.3
    max_repeated_words: float = 0.3
    max_symbols: float = 0.4


@dataclass(frozen=True, slots=True)
class Finding:
    """One sign of poor text: the name of the filter, and what it saw."""

    name: str
    detail: str


_FENCES = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ue000-\uf8ff]")
# A byte of UTF-8 that begins a character, and one that continues it, both shown as Windows-1252 shows them.
_CONTINUES = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_LATIN = re.compile(f"[ÂÃÄÅÐÑ][{_CONTINUES}]|â€[{_CONTINUES}]|[åæçèé][{_CONTINUES}]{{2}}|ï»¿|ï¿½")
_GBK = re.compile(r"锟斤拷|烫烫烫|屯屯屯")
_HAN_RUN = re.compile(r"[\u3400-\u9fff\ue000-\uf8ff€]{4,}")
_ENDS = ".!?…。！？；;:：\"'”’」』)）]】}》>*`~|_"
_LIST = re.compile(r"\s*(?:[-*+•]|\d+[.)、])\s?")


def quality_findings(record: Record, limits: QualityLimits | None = None) -> Iterator[Finding]:
    """Yields the signs of poor text in a record, at most one of each filter. System messages are not judged."""
    limits = limits or QualityLimits()
    spoken = [one for one in record.messages if one.get("role") not in ("system", "developer")]
    text = "\n".join(filter(None, map(content_text, spoken)))
    if garbled := _garbled(record.text):
        yield Finding("garbled", garbled)
    if len(text) > limits.max_characters:
        yield Finding("long", f"{len(text)}")
        text = text[: limits.max_characters]
    words = _WORDS.findall(text.lower())
    calls = any(one.get("tool_calls") or one.get("function_call") for one in spoken)
    if len(words) < limits.min_words and not calls:
        yield Finding("short", f"{len(words)}")
    prose = _FENCES.sub(" ", text)
    if (share := _repeated_lines(prose)) > limits.max_repeated_lines:
        yield Finding("repeated_lines", f"{share:.0%}")
    if (share := _repeated_words(words)) > limits.max_repeated_words:
        yield Finding("repeated_words", f"{share:.0%}")
    if (share := _symbols(prose)) > limits.max_symbols:
        yield Finding("symbols", f"{share:.0%}")
    last = spoken[-1] if spoken else {}
    if (last.get("role") == "assistant" or record.format == "text") and (cut := _cut_off(content_text(last))):
        yield Finding("truncated", cut)


def _repeated_lines(text: str) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 0.0 if len(lines) < 4 else 1 - len(set(lines)) / len(lines)


def _repeated_words(words: list[str]) -> float:
    if len(words) < 50:
        return 0.0
    runs = Counter(zip(*(words[step:] for step in range(5)), strict=False))
    return 1 - len(runs) / runs.total()


def _symbols(text: str) -> float:
    dense = "".join(text.split())
    if len(dense) < 40:
        return 0.0
    return 1 - sum(map(str.isalnum, dense)) / len(dense)


def _cut_off(text: str) -> str:
    """Returns the end of an answer that stops in the middle, or an empty string."""
    text = text.rstrip()
    if text.count("```") % 2:
        return "```"
    lines = text.splitlines()
    if not lines or text.endswith("```") or len(_WORDS.findall(text)) < 20:
        return ""
    last = lines[-1]
    # Code, lists, headings and verse end without a sign; a line that is much longer than them does not.
    if last[-1] in _ENDS or _LIST.match(last) or last.startswith(("#", "|", "    ", "\t")) or len(last) < 40:
        return ""
    if not (last[-1].isalnum() or last[-1] in ",，、-–—(（"):
        return ""
    return f"…{last[-24:]}"


def _garbled(text: str) -> str:
    """Returns the first garbled place, or an empty string."""
    if text.isascii():
        found = _CONTROL.search(text)
        return "" if found is None else f"U+{ord(found[0]):04X}"
    if "\ufffd" in text:
        return "U+FFFD"
    for pattern in (_CONTROL, _LATIN, _GBK):
        if found := pattern.search(text):
            return found[0] if pattern is not _CONTROL else f"U+{ord(found[0]):04X}"
    for run in _HAN_RUN.findall(text):
        if _read_as_gbk(run):
            return run[:12]
    return ""


def _read_as_gbk(run: str) -> bool:
    """Tells whether Han characters are UTF-8 that was read as GBK: their GBK bytes are UTF-8 of other than ASCII."""
    try:
        data = run.encode("gbk")
    except UnicodeEncodeError:
        return False
    # A run may begin or end within a character.
    for begin in range(3):
        for end in range(3):
            part = data[begin : len(data) - end]
            try:
                meant = part.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if len(meant) >= 3 and all("\u3000" <= one <= "\u9fff" or one >= "\uff00" for one in meant):
                return True
    return False

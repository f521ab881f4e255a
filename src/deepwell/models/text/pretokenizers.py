"""The pre-tokenizers that `tokenizer.ggml.pre` names. They cut text into words before byte pairs are merged.

Each repeats the `pre_tokenizer` of the model's own `tokenizer.json`. llama.cpp's `src/llama-vocab.cpp` maps the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split

__all__ = ["IGNORES_MERGES", "NFC_NORMALIZED", "PRE_TOKENIZERS"]

_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3: Final = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

# Written as code points because several of these characters change under Unicode normalisation.
_CASED: Final = """
41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1
3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A
1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4
1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128
212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D
A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3
104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
_PUNCTUATION: Final = "21-2F 3A-7E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
_CJK: Final = "4E00-9FA5 800-4E00 AC00-D7FF"
_CJK_V3: Final = "4E00-9FA5 3040-309F 30A0-30FF"

_DEEPSEEK_V3: Final = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _one_of(ranges: str) -> str:
    """Returns a regex class for code points written as `41-5A B5`."""
    return "[" + "".join("-".join(chr(int(end, 16)) for end in r.split("-")) for r in ranges.split()) + "]"


def _split(*patterns: str) -> list[PreTokenizer]:
    return [Split(Regex(pattern), "isolated") for pattern in patterns]


def _bytes() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=False)


def _gpt2() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> PreTokenizer:
    return Sequence([Digits(individual_digits=True), _gpt2()])


def _qwen2() -> PreTokenizer:
    return Sequence([*_split(_QWEN2), _bytes()])


def _llama3() -> PreTokenizer:
    return Sequence([*_split(_LLAMA3), _bytes()])


def _deepseek_llm() -> PreTokenizer:
    words = _split(r"[\r\n]", r"\s?" + _one_of(_CASED) + "+", r"\s?" + _one_of(_PUNCTUATION) + "+", r"\s+$")
    return Sequence([*words, *_split(_one_of(_CJK) + "+"), Digits(individual_digits=True), _bytes()])


def _deepseek_coder() -> PreTokenizer:
    words = _split(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _one_of(_CJK) + "+")
    return Sequence([*words, Digits(individual_digits=True), _bytes()])


def _deepseek_v3() -> PreTokenizer:
    return Sequence([*_split(r"\p{N}{1,3}", _one_of(_CJK_V3) + "+", _DEEPSEEK_V3), _bytes()])


PRE_TOKENIZERS: Final[Mapping[str, Callable[[], PreTokenizer]]] = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
    "llama-bpe": _llama3,
    "deepseek-llm": _deepseek_llm,
    "deepseek-coder": _deepseek_coder,
    "deepseek-v3": _deepseek_v3,
}
IGNORES_MERGES: Final = frozenset({"llama-bpe"})  # a word that is in the vocabulary becomes one token
NFC_NORMALIZED: Final = frozenset({"qwen2"})

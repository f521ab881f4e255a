"""Phonemes of Mandarin syllables, in the alphabet that Kokoro v1.0 was trained on (IPA without ties, tones as arrows)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["syllable_phonemes"]

_TONES: Final = {"1": "→", "2": "↗", "3": "↓", "4": "↘", "5": ""}
_INITIALS: Final = {
    "b": "p",
    "p": "pʰ",
    "m": "m",
    "f": "f",
    "d": "t",
    "t": "tʰ",
    "n": "n",
    "l": "l",
    "g": "k",
    "k": "kʰ",
    "h": "x",
    "j": "ʨ",
    "q": "ʨʰ",
    "x": "ɕ",
    "zh": "ꭧ",
    "ch": "ꭧʰ",
    "sh": "ʂ",
    "r": "ɻ",
    "z": "ʦ",
    "c": "ʦʰ",
    "s": "s",
}
# A final is its nucleus, behind which the tone stands, and its coda.
_FINALS: Final = {
    "a": ("a", ""),
    "ai": ("ai", ""),
    "an": ("a", "n"),
    "ang": ("a", "ŋ"),
    "ao": ("au", ""),
    "e": ("ɤ", ""),
    "ei": ("ei", ""),
    "en": ("ə", "n"),
    "eng": ("ə", "ŋ"),
    "er": ("ɚ", ""),
    "i": ("i", ""),
    "ia": ("ja", ""),
    "ian": ("jɛ", "n"),
    "iang": ("ja", "ŋ"),
    "iao": ("jau", ""),
    "ie": ("je", ""),
    "in": ("i", "n"),
    "ing": ("i", "ŋ"),
    "iong": ("jʊ", "ŋ"),
    "iu": ("jou", ""),
    "o": ("wo", ""),
    "ong": ("ʊ", "ŋ"),
    "ou": ("ou", ""),
    "u": ("u", ""),
    "ua": ("wa", ""),
    "uai": ("wai", ""),
    "uan": ("wa", "n"),
    "uang": ("wa", "ŋ"),
    "ui": ("wei", ""),
    "un": ("wə", "n"),
    "uo": ("wo", ""),
    "v": ("y", ""),
    "van": ("ɥɛ", "n"),
    "ve": ("ɥe", ""),
    "vn": ("y", "n"),
}
# Syllables without an initial are written with y and w; interjections have sounds of their own.
_WHOLE: Final = {
    "wu": ("u", ""),
    "yi": ("i", ""),
    "yin": ("i", "n"),
    "ying": ("i", "ŋ"),
    "ya": ("ja", ""),
    "yan": ("jɛ", "n"),
    "yang": ("ja", "ŋ"),
    "yao": ("jau", ""),
    "ye": ("je", ""),
    "yo": ("wo", ""),
    "yong": ("jʊ", "ŋ"),
    "you": ("jou", ""),
    "yu": ("y", ""),
    "yuan": ("ɥɛ", "n"),
    "yue": ("ɥe", ""),
    "yun": ("y", "n"),
    "wa": ("wa", ""),
    "wai": ("wai", ""),
    "wan": ("wa", "n"),
    "wang": ("wa", "ŋ"),
    "wei": ("wei", ""),
    "wen": ("wə", "n"),
    "weng": ("wə", "ŋ"),
    "wo": ("wo", ""),
    "o": ("ɔ", ""),
    "m": ("m", ""),
    "n": ("n", ""),
    "ng": ("ŋ", ""),
    "hm": ("hm", ""),
    "hng": ("hŋ", ""),
}
_SYLLABLE: Final = re.compile(r"(zh|ch|sh|[bpmfdtnlgkhjqxrzcs]?)([a-z]+)([1-5])")


def syllable_phonemes(syllable: str) -> str | None:
    """Returns the phonemes of a syllable in pinyin with its tone as a digit, as `zhong1` or `lv4`; None: it is none.

    ü is written v, and the neutral tone 5.
    """
    syllable = syllable.replace("ü", "v").replace("ê", "e")
    if (whole := _WHOLE.get(syllable[:-1])) is not None and syllable[-1:] in _TONES:
        return whole[0] + _TONES[syllable[-1]] + whole[1]
    found = _SYLLABLE.fullmatch(syllable)
    if found is None:
        return None
    initial, rest, tone = found.groups()
    if initial in ("zh", "ch", "sh", "r", "z", "c", "s") and rest == "i":
        return f"{_INITIALS[initial]}ɨ{_TONES[tone]}"
    if initial in ("j", "q", "x") and rest.startswith("u"):
        rest = "v" + rest[1:]
    if initial in ("n", "l") and rest == "ue":
        rest = "ve"
    final = _FINALS.get(rest)
    if final is None:
        return None
    return _INITIALS.get(initial, "") + final[0] + _TONES[tone] + final[1]

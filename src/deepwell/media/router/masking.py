"""Masks the content of a request, so that what is to be read aloud, translated or written on a picture counts for nothing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_CHARACTERS", "masked", "shortened"]

MAX_CHARACTERS: Final = 1000
"""The characters that are read of a request, at its begin and its end. A text to be read aloud may be long."""

_QUOTES: Final = re.compile(
    r'"[^"\n]{1,900}"|“[^”\n]{1,900}[”"]|「[^」]{1,900}」|『[^』]{1,900}』|《[^》]{1,60}》|«[^»]{1,900}»|‘[^’\n]{1,900}’'
    r"|(?:(?<=\s)|(?<=^)|(?<=[(:,]))'[^'\n]{2,300}'(?=[\s.,;:!?)]|$)"
)
_QUOTED: Final = "‹q›"
_CONTENT: Final = " ‹t›"
_WORKED: Final = " ‹w›"

_COLON: Final = re.compile(r"[:：](?!//|\d)|\n{1,3}(?=\S{0,40}[^\n]{40})")
# What stands before a colon with content behind it: a command to read, or one that works on a text.
_HEAD: Final = re.compile(
    r"\b(?:read|say|speak|spoken|recite|narrate|pronounce|announce|announcement|whisper|voice|tts"
    r"|text[- ]to[- ]speech|hear|listen|aloud|"
    r"out loud|audio|audible|mp3|greeting|shout|chant|sing|accent|dialog(?:ue)?|record|recording"
    r"|commentator|monologue|perform|says?)\b"
    r"|[念读播诵]|语音|音频|配音|录[个一段]|[说讲喊](?:一声|一句|出来)?$|台词|广播|声音|语速|音频|报|吼|吆喝|吟|听写|跟读|发音|(?:音|腔|调|口吻|口气|语气|劲儿?|话|讲|说|放的)$"
)
_WORK: Final = re.compile(
    r"\b(?:translate|summari[sz]e|rewrite|rephrase|proofread|correct|fix|shorten|paraphrase|polish"
    r"|make this|continue|classify|check|put these)\b"
    r"|翻译|润色|概括|总结|改写|缩写|扩写|改|标上|排序|合并|换成|条款|拼音|读懂"
)
_THIS: Final = re.compile(r"[这下](?:段|句|列|面)")
# Commands whose colon opens the question itself.
_ASKS: Final = re.compile(
    r"\b(?:answer|reply|respond|tell me|tell us|explain|question|both|two things)\b"
    r"|回答|回复|告诉|都要|两件|讲讲|解释|问题|(?:语音|直接)[说讲]"
)
_TAIL: Final = re.compile(
    r"(?:[.!?。！？\n…]|[,，]|‹q›) {0,2}((?:then|and then|after that|afterwards|also|plus|and also|finally"
    r"|然后|再|接着|顺便|最后|另外|并且|之后)[ ,，给把画念读写用配帮你总翻转做生][^\n]{2,160})$"
)
# A command to read, and the text behind its sentence.
_READ_ON: Final = re.compile(
    r"(\b(?:read(?:ing)?|narrate|recite) (?:this|my|the following|the text below|me|these|it)\b[^.?!:]{0,60})[.?!] "
    r"(?!(?:it|i|then|also|and|make|keep|use|slowly|not|please|what|so)\b)[^‹]{20,900}$"
)
_SPACE: Final = re.compile(r"[ \t\r\f\v]{1,1000}")
_SAME: Final = str.maketrans({"’": "'", "`": "'", "‘": "'", "＂": '"', "″": '"', "！": "!", "？": "?"})


def shortened(text: str) -> str:
    """Returns the begin and the end of a text."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]} … {text[1 - MAX_CHARACTERS // 2 :]}"


def masked(text: str) -> str:
    """Returns a request in lower case, with ‹q› for what it quotes, ‹t› for what stands behind the colon of a command
    to read, ‹w› for what stands behind that of a command to work on a text."""
    told = _SPACE.sub(" ", shortened(text).lower().strip())
    told = _QUOTES.sub(_QUOTED, told).translate(_SAME)
    told = _READ_ON.sub(r"\1:" + _CONTENT, told)
    found = _COLON.search(told)
    if found is None:
        return told
    head, content = told[: found.start()], told[found.end() :]
    works, reads = _WORK.search(head[-120:]), _HEAD.search(head[-120:])
    if reads is None and works is None:
        works = _THIS.search(head[-120:])
    if not content.strip() or content.strip() == _QUOTED or _ASKS.search(head[-60:]) or not (reads or works):
        return told
    tail = _TAIL.search(content)
    kept = f". {tail.group(1)}" if tail else ""
    return f"{head}:{_WORKED if works else _CONTENT}{kept}"

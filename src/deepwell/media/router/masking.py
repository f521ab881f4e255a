"""Masks the content of a request, so that what is to be read aloud, translated or written on a picture counts for nothing."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_CHARACTERS", "masked", "shortened"]

MAX_CHARACTERS: Final = 1000
"""What is read of a request: its begin and its end say what is wanted, and a text to be read aloud may be long."""

_QUOTES: Final = re.compile(
    r'"[^"\n]{1,900}"|“[^”\n]{1,900}[”"]|「[^」]{1,900}」|『[^』]{1,900}』|《[^》]{1,60}》|«[^»]{1,900}»|‘[^’\n]{1,900}’'
    r"|(?:(?<=\s)|(?<=^)|(?<=[(:,]))'[^'\n]{2,300}'(?=[\s.,;:!?)]|$)"
)
_QUOTED: Final = "‹q›"
_CONTENT: Final = " ‹t›"

_COLON: Final = re.compile(r"[:：](?!//|\d)|\n{1,3}(?=\S{0,40}[^\n]{40})")
# What stands before a colon with content behind it: a command to read, or one that works on a text.
_HEAD: Final = re.compile(
    r"\b(?:read|say|speak|spoken|recite|narrate|pronounce|announce|announcement|whisper|voice|tts|text[- ]to[- ]speech|hear|listen|aloud|"
    r"out loud|audio|mp3|greeting|shout|chant|sing|accent|dialog(?:ue)?|record|translate|summari[sz]e|rewrite|rephrase|"
    r"proofread|correct|fix|shorten|paraphrase|polish|says?)\b"
    r"|[念读播诵]|语音|音频|配音|录[个一段]|[说讲喊](?:一声|一句|出来)?$|台词|广播|声音|语速|音频|报|吼|吆喝|吟|听写|跟读|发音|(?:音|腔|调|口吻|口气|语气|劲儿?|话|讲|说|放的)$|翻译|润色|概括|总结|改写|缩写|扩写|[这下](?:段|句)话?"
)
# Commands whose colon opens the question itself.
_ASKS: Final = re.compile(
    r"\b(?:answer|reply|respond|tell|explain|question|both|two things)\b|回答|回复|告诉|都要|两件|讲讲|解释|问题|(?:语音|直接)[说讲]"
)
_TAIL: Final = re.compile(
    r"(?:[.!?。！？\n…]|[,，]|‹q›) {0,2}((?:then|and then|after that|afterwards|also|plus|and also|finally"
    r"|然后|再|接着|顺便|最后|另外|并且|之后)[ ,，给把画念读写用配帮你总翻转做生][^\n]{2,160})$"
)
_SPACE: Final = re.compile(r"[ \t\r\f\v]{1,1000}")
_SAME: Final = str.maketrans({"’": "'", "`": "'", "‘": "'", "＂": '"', "″": '"', "！": "!", "？": "?"})


def shortened(text: str) -> str:
    """Returns the begin and the end of a text."""
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[: MAX_CHARACTERS // 2]} … {text[1 - MAX_CHARACTERS // 2 :]}"


def masked(text: str) -> str:
    """Returns a request in lower case, with ‹q› for what it quotes and ‹t› for what stands behind the colon of a command."""
    told = _SPACE.sub(" ", shortened(text).lower().strip())
    told = _QUOTES.sub(_QUOTED, told).translate(_SAME)
    found = _COLON.search(told)
    if found is None:
        return told
    head, content = told[: found.start()], told[found.end() :]
    if not content.strip() or content.strip() == _QUOTED or _ASKS.search(head) or not _HEAD.search(head[-120:]):
        return told
    tail = _TAIL.search(content)
    kept = f". {tail.group(1)}" if tail else ""
    return f"{head}:{_CONTENT}{kept}"

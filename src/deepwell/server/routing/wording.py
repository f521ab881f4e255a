"""Words of a request: what a picture of it shows, and what is to be read aloud."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["AUTO", "spoken_words", "subject_of"]

AUTO: Final = "auto"
"""Name of the model that stands for whatever a request needs."""

_MOST_COMMAND: Final = 2000
"""Characters among which a command is looked for."""

_POLITE: Final = (
    r"(?:(?:hey|hi|hello|please|pls|can|could|would|will|you|kindly|just|now|then|and|also|i want you to|i'd like you to"
    r"|help me|let's),? ){0,6}"
)
_KIND: Final = r"(?:picture|pic|image|photo|drawing|sketch|painting|illustration|icon|cartoon)"
_DRAW: Final = re.compile(
    rf"^{_POLITE}(?:"
    r"(?:draw|paint|sketch|illustrate|doodle|depict)(?: me| us)?"
    rf"(?: (?:an? |the |one |some )?(?:\w{{3,12}} )?{_KIND}s? (?:of|with|showing))?"
    r"|(?:make|create|generate|design|produce|give|show|render)(?: me| us)? (?:an? |the |one |some )?"
    rf"(?:\w{{3,12}} )?{_KIND}s? (?:of|with|showing)"
    rf"|(?:an? |the )?{_KIND} (?:of|with|showing)"
    r") +",
    re.IGNORECASE,
)
_DRAW_ZH: Final = re.compile(
    r"^(?:请|麻烦|帮我|帮忙|给我|为我|你|能不能|可以|我想要?|想要|来){0,4}(?:画|绘制|绘|描绘|生成|创作|做|来)(?:出|一下|个|点)?(?=.)"
)
_TAIL_ZH: Final = re.compile(r"的?(?:图片|图像|图画|照片|插画|插图|画|图)[。！!.]?$")
# A second wish behind the picture.
_NEXT: Final = re.compile(
    r"[,.;!]?\s+(?:and|then|and then|also|and also|plus)\s+(?:please\s+)?"
    r"(?:read|say|speak|tell|describe|explain|narrate|recite|pronounce|write|transcribe|sing"
    r"|(?:name|give) (?:it|him|her|them))\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_NEXT_ZH: Final = re.compile(
    r"(?:[，,。；;]?(?:再|然后|并且|并|接着|同时|还要|顺便|最后)[^，。；]{0,6}?(?:念|读|朗读|播报|说|讲|告诉|介绍|描述|写|解释|转写)"
    r"|[，,。；;][^，。；]{0,6}?[给为替][^，。；]{0,3}[起取][^，。；]{0,3}名).*$",
    re.DOTALL,
)
_QUOTED: Final = re.compile(
    r"\"([^\"\n]{1,2000})\"|“([^”\n]{1,2000})”|「([^」\n]{1,2000})」|『([^』\n]{1,2000})』"
)
_SAY: Final = (
    r"(?:read|say|speak|recite|narrate|pronounce|announce|aloud|out loud|voice|audio|speech"
    r"|念|读|播|诵|说|语音|音频|配音|出声)"
)
_BEHIND: Final = re.compile(rf"{_SAY}[^\n:：]{{0,80}}[:：]\s*(\S.*)$", re.IGNORECASE | re.DOTALL)
_PLAIN: Final = re.compile(
    rf"^{_POLITE}(?:say|pronounce|read (?:out|aloud)) +(?!(?:it|this|that|something|what|how|the answer|your)\b)(.{{1,300}}?)"
    r"(?: (?:aloud|out loud|to me|for me))?[.!]?$",
    re.IGNORECASE,
)
_PLAIN_ZH: Final = re.compile(
    r"^(?:请|帮我|给我|用语音|大声){0,3}(?:念|朗读|读|说)(?:一下|一遍|出来|出)?(?!一个|一段|个|段|这|那|什么|怎么)(.{1,300})$"
)


def subject_of(text: str) -> str:
    """Returns what a picture is to show: a request without its command and without what it asks for besides."""
    if len(text) > _MOST_COMMAND:
        return text.strip()
    told = " ".join(text.split())
    told = _NEXT_ZH.sub("", _NEXT.sub("", told))
    short = _DRAW.sub("", told, count=1)
    if short == told:
        short = _DRAW_ZH.sub("", told, count=1)
        if short != told:
            short = _TAIL_ZH.sub("", short) or short
    return short.strip(" ,.;:，。；：!！") or text.strip()


def spoken_words(text: str) -> str:
    """Returns the words that a request hands over to be read aloud; empty if it hands over none."""
    told = text.strip()
    if match := _BEHIND.search(told[:_MOST_COMMAND]):
        words = told[match.start(1) :].strip()
        quoted = _QUOTED.fullmatch(words)
        return next(filter(None, quoted.groups())) if quoted else words
    if len(told) > _MOST_COMMAND:
        return ""
    if re.search(_SAY, told, re.IGNORECASE) and (match := _QUOTED.search(told)):
        return next(filter(None, match.groups()))
    if match := _PLAIN.match(told) or _PLAIN_ZH.match(told):
        return match[1].strip()
    return ""

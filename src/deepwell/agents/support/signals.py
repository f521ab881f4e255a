"""`signal_of`: whether a customer asks for a person, or says that the answer before failed.

Patterns decide, in both languages and in linear time (google-re2). A question of how to do something is never a signal:
"How do I share this with another person?" asks the documents.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal

__all__ = ["Signal", "signal_of"]

Signal = Literal["person", "unsolved", "none"]

_LONGEST: Final = 400  # characters: a longer message describes something, and is answered

_QUESTION: Final = (
    r"(?i)^(how|what|where|which|why|when|is it possible|can i\b|can a\b|do i\b|does\b|are there|i.d also like to know)"
    r"|怎样|怎么|如何|什么|哪里|哪儿|能不能用|为何|为什么|有什么区别|行不行[？?]?$"
)
_ASKING: Final = (
    r"转|找|要|接通|接入|换|叫|喊|安排|请|给我|让|有没有|想|联系|需要|由|派"
    r"|\b(talk|speak|chat|connect|transfer|put me|escalate|get me|give me|need|want|reach|call|contact|prefer|rather|let me|"
    r"somebody|someone|could one|can one|forward|hand me)\b"
)
_PERSON: Final = (
    r"人工(客服|服务|坐席|处理)?|真人|活人|客服|坐席|专员|负责人|主管|经理|工程师|技术支持|同事|个人(来|跟|和|聊)|由人|人来"
    r"|\b(real person|person|human( being)?|agent|representative|somebody|someone|manager|supervisor|customer (service|care)|"
    r"(support|service) (staff|team|desk)|your (staff|team)|engineers?|operator|whoever is in charge)\b"
)
_PLAIN: Final = (  # wishes in the form of a question
    r"\b(talk|speak|chat) (to|with)\b.{0,30}\b(person|human|agent|representative|someone|somebody|manager|support)\b"
    r"|\b(someone|somebody|anyone|person|human)\b.{0,30}\b(call|contact|help|talk to|write to) me\b"
    r"|(能不能|可以|可否|能否).{0,6}(转人工|换个?真人|换个?人|找个?人|接人工)"
)
_UNSOLVED: Final = (
    r"(还是|依然|仍然|依旧|照样|还)(不行|没|打不开|不能|无法|不对|一样|老样子|有问题|报错|出错)|还是老样子"
    r"|(没|没有|未|毫无)(能)?(解决|用|效果|变化|反应|起作用|任何变化)|一点用|答非所问|不是我(问|要|想)|根本没有|并没有"
    r"|^(不对|错了|不行|没用)|不管用|行不通|不起作用"
    r"|(still|again).{0,30}(n.t work|not work|fail|wrong|the same|broken|there)|n.t (work|help|solve|fix|answer|change)"
    r"|\b(no luck|no help|not helpful|nothing (changed|happens|happened)|not what i (asked|meant|want))\b"
    r"|\bsame (problem|error|thing)\b"
    r"|(is|was)n.t (there|what i)|^(wrong|that.s wrong|no[,.] )|has no such|did not (work|help|answer|fix)"
)


@cache
def _patterns() -> dict[str, Any]:
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return {
        "question": re2.compile(_QUESTION, options),
        "plain": re2.compile(_PLAIN, options),
        "asking": re2.compile(_ASKING, options),
        "person": re2.compile(_PERSON, options),
        "unsolved": re2.compile(_UNSOLVED, options),
    }


def signal_of(message: str) -> Signal:
    """Returns what a message of a customer says about the conversation itself."""
    text = message.strip().replace("’", "'")
    if not text or len(text) > _LONGEST:
        return "none"
    found = _patterns()
    if found["plain"].search(text):
        return "person"
    if found["question"].search(text):
        return "none"
    if found["asking"].search(text) and found["person"].search(text):
        return "person"
    return "unsolved" if found["unsolved"].search(text) else "none"

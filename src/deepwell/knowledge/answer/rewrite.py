"""Turns the last message of a conversation into a query that can be understood alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from deepwell.errors import DeepwellError, InvalidRequest
from deepwell.knowledge.answer.text import content_words, language_of, names, numbers, plain
from deepwell.knowledge.answer.wording import WORDING
from deepwell.knowledge.protocols import Writer

__all__ = ["Rewritten", "needs_rewrite", "rewrite"]

_MOST_TOKENS: Final = 64
_MOST_TURNS: Final = 4  # earlier messages that the model reads
_MOST_CHARACTERS: Final = 600  # of one of them: a pronoun refers to what was said last
_SHORT_WORDS: Final = 4
_SHORT_HAN: Final = 6
_LEAST_KNOWN: Final = 0.7  # share of the new query's words that the conversation holds

_DUMMY: Final = re.compile(
    r"\b(?:is|was|would|does|will|can) it (?:possible|necessary|safe|true|better|ok|allowed|take|make sense|matter|cost)\b"
    r"|\bit is (?:possible|necessary)\b|\bis there\b|\bare there\b|\bthere (?:is|are)\b"
)
_REFERS: Final = re.compile(
    r"\b(?:it|its|itself|they|them|their|theirs|he|him|his|she|her|hers|this|that|these|those|the former|the latter|the same"
    r"|the other|another one|the first one|the second one|the last one|ones|there|above|previous)\b"
)
# Conjunctions and relative pronouns that look like references: "the cell that holds", "so that".
_RELATIVE: Final = re.compile(
    r"\b(?:so|such|[a-z]{3,}) that (?=[a-z]+(?:s|ed|n't)\b|is\b|are\b|can\b|has\b|have\b|was\b)|\bthis (?:year|week|month)\b"
)
_CONTINUES: Final = re.compile(
    r"^(?:and|or|but|so|then|also|what about|how about|what else|anything else|why not|why|how so|really|in|on|for|with"
    r"|without|from|to|by|instead|only|more|tell me more|go on|continue|example|for example|the|same)\b"
)
_OPENS_ALONE: Final = re.compile(
    r"^(?:in|on|for|with|without|from|to|by|the|why|so)\b.*\b(?:is|are|do|does|did|can|should|how|what|which|who)\b"
)
_REFERS_ZH: Final = re.compile(
    r"它|他们|她们|[他她](?!们)|这(?!样的话)|那(?!些年)|该(?=[功方函选设文命])|此(?!外)|其(?=[中他余]?[是有的])|前者|后者|上面|上述|刚才|同样|第[一二三四]个|另一"
)
_CONTINUES_ZH: Final = re.compile(
    r"^(?:那|还有|另外|然后|为什么|为何|怎么办|怎么做|例如|比如|继续|再|或者|但|如果不|不行)|呢[？?]?$"
)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A query for the search.

    Attributes:
        query: the query.
        how: "unchanged"; "written" by the model; or "joined" with the user's turn before, because the model failed.
    """

    query: str
    how: Literal["unchanged", "written", "joined"]


def needs_rewrite(messages: Sequence[Mapping[str, str]]) -> bool:
    """Returns whether the last user message leans on those before it: by a pronoun, an ellipsis, or by being very short.

    It looks at words alone and takes microseconds. A message that needs no rewriting may be taken for one that does, at the
    cost of one short call of the model; the contrary makes the search miss.
    """
    users = _user_turns(messages)
    if len(users) < 2:
        return False
    last = " ".join(plain(users[-1]).split())
    if language_of(last) == "zh":
        return bool(_REFERS_ZH.search(last) or _CONTINUES_ZH.search(last)) or (
            sum(1 for one in last if one >= "\u3400") < _SHORT_HAN and not names(users[-1])
        )
    body = _RELATIVE.sub(" ", _DUMMY.sub(" ", last))
    if _REFERS.search(body):
        return True
    if _CONTINUES.match(last) and not (_OPENS_ALONE.match(last) and len(content_words(last)) > 2):
        return True
    return len(last.split()) <= _SHORT_WORDS and not names(users[-1]) and not numbers(users[-1])


async def rewrite(messages: Sequence[Mapping[str, str]], writer: Writer | None) -> Rewritten:
    """Returns the last user message as a query of its own; unchanged if it is one already.

    Args:
        writer: the model to ask; None: the message is joined with the one before.

    Raises:
        InvalidRequest: there is no user message with text.
    """
    users = _user_turns(messages)
    if not users:
        raise InvalidRequest(
            "there is no question", fix="end the conversation with a user message", param="messages"
        )
    last = users[-1].strip()
    if not needs_rewrite(messages):
        return Rewritten(last, "unchanged")
    if writer is not None:
        try:
            written = _first_line(await writer.write(_asked(messages, last), max_tokens=_MOST_TOKENS))
        except DeepwellError:  # the model is busy or its context too short: a worse query is better than none
            written = ""
        if _is_sound(written, last, users[:-1], messages):
            return Rewritten(written, "written")
    return Rewritten(f"{users[-2].strip()}\n{last}", "joined")


def _asked(messages: Sequence[Mapping[str, str]], last: str) -> list[dict[str, str]]:
    place = max(index for index, one in enumerate(messages) if one["role"] == "user")
    before = [one for one in messages[:place] if one["role"] in ("user", "assistant") and one["content"]]
    turns = "\n".join(
        f"{one['role']}: {' '.join(one['content'].split())[:_MOST_CHARACTERS]}"
        for one in before[-_MOST_TURNS:]
    )
    wording = WORDING[language_of(last)]
    return [{"role": "user", "content": wording.rewrite.format(turns=turns, question=last)}]


def _is_sound(written: str, last: str, before: Sequence[str], messages: Sequence[Mapping[str, str]]) -> bool:
    """Returns whether a model's query is made of the conversation's words, and adds some to the last message."""
    words = set(content_words(written))
    if not words or len(written) > 4 * len(last) + 200:
        return False
    own = set(content_words(last))
    said = set(content_words("\n".join(one["content"] for one in messages)))
    added = words - own
    kept = len(words & own) / len(own) if own else 1.0
    return (
        bool(added & said)
        and len(words & said) / len(words) >= _LEAST_KNOWN
        and kept >= 0.5
        and written not in before
    )


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[0].strip('"“”') if lines else ""


def _user_turns(messages: Sequence[Mapping[str, str]]) -> list[str]:
    return [one["content"] for one in messages if one["role"] == "user" and one["content"].strip()]

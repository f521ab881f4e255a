"""Ledgers of prompts that are made of whole messages beside other text, as grounded answers are, and of answers without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from deepwell.knowledge.context.fitting.layout import Message, text_of
from deepwell.knowledge.context.fitting.ledger import Fates, Ledger, LedgerRow
from deepwell.knowledge.context.fitting.placing import PromptMap, TokenBytes
from deepwell.knowledge.context.fitting.policy import ContextPolicy

__all__ = ["account", "beside", "quoted"]


def account(
    policy: ContextPolicy,
    messages: Sequence[Message],
    prompt: Sequence[int],
    made: Sequence[Message],
    made_prompt: Sequence[int],
    *,
    codec: TokenBytes,
    keeps: Callable[[int], bool],
) -> Ledger:
    """Returns the ledger of a prompt in which each message of a conversation stands as a whole or not at all.

    Args:
        messages, prompt: the conversation, and its tokens as the template renders it.
        made, made_prompt: what the model reads. Text of it that is no message's counts as added.
        keeps: tells by the number of a message whether its whole text is in `made`.
    """
    placed = PromptMap(prompt, [text_of(one) for one in messages], codec)
    shown = PromptMap(made_prompt, [text_of(one) for one in made], codec).template
    rows = tuple(
        LedgerRow(
            at,
            at,
            str(one["role"]),
            Fates(kept=placed.placed[at].tokens) if keeps(at) else Fates(dropped=placed.placed[at].tokens),
        )
        for at, one in enumerate(messages)
    )
    template = Fates(min(placed.template, shown), dropped=max(0, placed.template - shown))
    lost = any(row.fates.dropped for row in rows)
    return Ledger(policy, "drop" if lost else "none", len(made_prompt), rows, template)


def beside(
    ledger: Ledger, made: Sequence[Message], made_prompt: Sequence[int], *, codec: TokenBytes
) -> Ledger:
    """Returns the ledger of a fitted conversation to whose prompt other text was added since.

    Args:
        made, made_prompt: what the model reads. All text of the fitted conversation stands in it.
    """
    shown = PromptMap(made_prompt, [text_of(one) for one in made], codec).template
    lost = max(0, ledger.template.kept - shown)
    template = replace(
        ledger.template, kept=ledger.template.kept - lost, dropped=ledger.template.dropped + lost
    )
    return replace(ledger, prompt_tokens=len(made_prompt), template=template)


def quoted(policy: ContextPolicy, tokens: int) -> Ledger:
    """Returns the ledger of an answer for which no model has read the conversation of `tokens` tokens."""
    return Ledger(policy, "quote", 0, (), Fates(dropped=tokens))

"""Prompts of product texts in both languages."""

from __future__ import annotations

from typing import Final

from deepwell.agents.writing.brief import Brief
from deepwell.models.text.shipped import shipped

__all__ = ["draft_prompt", "judged", "plain_prompt", "sentence_prompt", "template"]

_PLAIN: Final = {
    "en": shipped(
        "Write a product text. Product: {product}. Facts: {facts}. Style: {style}. "
        "Length: {length} words. It must contain these terms as they are: {required}. "
        "It must not contain: {forbidden}. Write the text alone."
    ),
    "zh": shipped(
        "写一段商品文案。商品：{product}。卖点：{facts}。风格：{style}。"
        "全文 {length} 个字。必须原样包含：{required}。"
        "不得出现：{forbidden}。只写正文。"
    ),
}
_DRAFT: Final = {
    "en": shipped(
        "Write a {style} product text of {sentences} short sentences. Product: {product}. "
        "Facts: {facts}. Spell the facts as they are and invent no others. Write the text alone."
    ),
    "zh": shipped(
        "写一段{style}的商品文案，{sentences} 个短句，每句以句号结束。商品：{product}。"
        "卖点：{facts}。卖点照原文写，不编造别的功能。只写正文。"
    ),
}
_SENTENCE: Final = {
    "en": shipped(
        'Write one {style} sentence about the product "{product}". '
        'It must contain "{term}". Write the sentence alone.'
    ),
    "zh": shipped("为商品“{product}”写一句{style}的文案，一句话，必须原样包含“{term}”。只写这一句。"),
}
_COMMA: Final = {"en": ", ", "zh": "、"}


def plain_prompt(brief: Brief) -> str:
    """Returns a prompt that states the whole brief."""
    comma = _COMMA[brief.language]
    return _PLAIN[brief.language].format(
        product=brief.product,
        facts=comma.join(brief.facts),
        style=brief.style,
        length=brief.length,
        required=comma.join(brief.required),
        forbidden=comma.join(brief.forbidden),
    )


def draft_prompt(brief: Brief) -> str:
    """Returns a prompt for a draft: short sentences with the facts as they are spelt."""
    return _DRAFT[brief.language].format(
        style=brief.style,
        sentences=max(3, brief.length // (25 if brief.language == "zh" else 12)),
        product=brief.product,
        facts=_COMMA[brief.language].join(brief.facts),
    )


def sentence_prompt(brief: Brief, term: str) -> str:
    """Returns a prompt for one sentence that contains a term."""
    return _SENTENCE[brief.language].format(product=brief.product, style=brief.style, term=term)


def judged(brief: Brief) -> str:
    """Returns the prompt behind which sentences are compared."""
    if brief.language == "zh":
        return f"商品：{brief.product}。卖点：{'、'.join(brief.facts)}。\n文案："
    return f"Product: {brief.product}. Facts: {', '.join(brief.facts)}.\nText: "


def template(brief: Brief, term: str) -> str:
    """Returns a sentence that states a term and nothing else."""
    return f"特点之一：{term}。" if brief.language == "zh" else f"One more detail: {term}."

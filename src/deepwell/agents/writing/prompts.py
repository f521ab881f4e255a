"""Prompts of product texts in both languages."""

from __future__ import annotations

from deepwell.agents.writing.brief import Brief

__all__ = ["draft_prompt", "judged", "plain_prompt", "sentence_prompt", "template"]


def plain_prompt(brief: Brief) -> str:
    """Returns a prompt that states the whole brief."""
    if brief.language == "zh":
        return (
            f"写一段商品文案。商品：{brief.product}。卖点：{'、'.join(brief.facts)}。风格：{brief.style}。"
            f"全文 {brief.length} 个字。必须原样包含：{'、'.join(brief.required)}。"
            f"不得出现：{'、'.join(brief.forbidden)}。只写正文。"
        )
    return (
        f"Write a product text. Product: {brief.product}. Facts: {', '.join(brief.facts)}. Style: {brief.style}. "
        f"Length: {brief.length} words. It must contain these terms as they are: {', '.join(brief.required)}. "
        f"It must not contain: {', '.join(brief.forbidden)}. Write the text alone."
    )


def draft_prompt(brief: Brief) -> str:
    """Returns a prompt for a draft: short sentences with the facts as they are spelt."""
    if brief.language == "zh":
        return (
            f"写一段{brief.style}的商品文案，{max(3, brief.length // 25)} 个短句，每句以句号结束。商品：{brief.product}。"
            f"卖点：{'、'.join(brief.facts)}。卖点照原文写，不编造别的功能。只写正文。"
        )
    return (
        f"Write a {brief.style} product text of {max(3, brief.length // 12)} short sentences. Product: {brief.product}. "
        f"Facts: {', '.join(brief.facts)}. Spell the facts as they are and invent no others. Write the text alone."
    )


def sentence_prompt(brief: Brief, term: str) -> str:
    """Returns a prompt for one sentence that contains a term."""
    if brief.language == "zh":
        return f"为商品“{brief.product}”写一句{brief.style}的文案，一句话，必须原样包含“{term}”。只写这一句。"
    return (
        f'Write one {brief.style} sentence about the product "{brief.product}". '
        f'It must contain "{term}". Write the sentence alone.'
    )


def judged(brief: Brief) -> str:
    """Returns the prompt behind which sentences are compared."""
    if brief.language == "zh":
        return f"商品：{brief.product}。卖点：{'、'.join(brief.facts)}。\n文案："
    return f"Product: {brief.product}. Facts: {', '.join(brief.facts)}.\nText: "


def template(brief: Brief, term: str) -> str:
    """Returns a sentence that states a term and nothing else."""
    return f"特点之一：{term}。" if brief.language == "zh" else f"One more detail: {term}."

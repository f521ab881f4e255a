"""`rules_tool`: a rule set as a tool: a model proposes facts, and rules answer with a decision and its reasons."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from deepwell.agents.rules.ruleset import RuleSet
from deepwell.agents.rules.schema import facts_from_json
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.errors import InvalidRequest
from deepwell.messages import Language, render

__all__ = ["rules_tool"]


def rules_tool(rules: RuleSet, *, language: Language = "en", score: float = 0.9, most: int = 64) -> Tool:
    """Returns a tool that decides a case by a rule set. Its arguments are held to the facts that the rules know.

    Args:
        language: language of the explanation that the model reads.
        score: score of the facts that the model proposes: below 1, for what a model says is never certain.
        most: most facts of a call.

    Raises:
        ValueError: the score is not between 0 and 1.
    """
    if not 0 < score < 1:
        raise ValueError(f"the score of proposals must lie between 0 and 1, not {score}")

    async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        try:
            facts = facts_from_json(dict(arguments), score=score, source=context.call_id)
            decision = await asyncio.to_thread(rules.decide, facts)
        except InvalidRequest as error:
            return ToolOutput(str(error), failed=True)
        return ToolOutput(decision.explanation.text(language), data=decision.json())

    title = rules.manifest.title.get(language) or rules.name
    description = render("rules_tool", language, {"title": title})[0]
    name = f"decide_{rules.name}".replace(".", "_")[:64]
    return Tool(name, description, rules.facts_schema(most=most), run)

"""Rules joined with models: a model proposes facts with scores, rules accept, deny and explain."""

from __future__ import annotations

from deepwell.agents.rules.decision import Decision, Denied, Explanation, Step
from deepwell.agents.rules.facts import Fact
from deepwell.agents.rules.ruleset import RuleSet
from deepwell.agents.rules.schema import facts_from_json

__all__ = ["Decision", "Denied", "Explanation", "Fact", "RuleSet", "Step", "facts_from_json"]

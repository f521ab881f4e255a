"""Rule sets as texts, for tests."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import yaml

FACTS: dict[str, Any] = {
    "label": {
        "text": {"en": "it is {name}", "zh": "属于{name}"},
        "arguments": {"name": {"type": "symbol", "values": ["mit", "gpl", "apache"]}},
        "threshold": 0.3,
        "neutral": 0.5,
    },
    "amount": {
        "text": {"en": "{yuan} yuan", "zh": "{yuan} 元"},
        "arguments": {"yuan": {"type": "decimal", "places": 2, "minimum": 0, "maximum": 1000000}},
        "single": True,
    },
    "party": {
        "text": {"en": "a party: {name}", "zh": "当事人：{name}"},
        "arguments": {"name": {"type": "string", "max_length": 30}},
    },
}
OUTCOMES: dict[str, Any] = {
    "deny": {"en": "Denied.", "zh": "拒绝。"},
    "grant": {"en": "Granted.", "zh": "同意。"},
    "ask": {"en": "A person decides.", "zh": "转人工。"},
}


def written(folder: Path, program: str = "", **changes: Any) -> Path:
    """Writes a rule set in one file and returns its path."""
    manifest: dict[str, Any] = {
        "name": "test",
        "version": "1.0",
        "facts": FACTS,
        "outcomes": OUTCOMES,
        "default": "ask",
        **changes,
    }
    text = yaml.safe_dump(manifest, allow_unicode=True, sort_keys=False)
    if program:
        text += "program: |\n" + indent(dedent(program).strip("\n"), "  ") + "\n"
    path = folder / "rules.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def rule(label: str, rule: str) -> str:
    """Returns a labelled rule with texts in both languages."""
    return f"% rule: {label}\n% en: {label} holds.\n% zh: {label} 成立。\n{rule}\n"

"""Runs and steps in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Steps", "call_line", "summary"]

_MOST = 160  # characters of one line


class Steps:
    """Prints steps as they come, one a line, or not at all.

    Args:
        out: where to; None: they are only kept.
    """

    def __init__(self, out: Console | None) -> None:
        self._out = out
        self._names: dict[str, str] = {}
        self._turns = 0

    def catch_up(self, past: Sequence[Mapping[str, Any]]) -> None:
        """Takes steps that were shown before, so that those to come have the right numbers and names."""
        for one in past:
            self.line(one)

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes a step, or the run."""
        line = f"run {event['id']}" if event["object"] == "agent.run" else self.line(event)
        if line and self._out is not None:
            self._out.print(line, style="dim", soft_wrap=True)

    def line(self, event: Mapping[str, Any]) -> str:
        """Returns a step in words; empty for one that says nothing new."""
        step = event["step"]
        match step["type"]:
            case "turn":
                self._turns += 1
                self._names |= {one["id"]: one["name"] for one in step["calls"]}
                said = _cut(step["text"]) if step["text"] else ""
                tokens = step["prompt_tokens"] + step["completion_tokens"]
                return f"turn {self._turns}: {said or _calls(step['calls'])}  ({tokens} tokens)"
            case "note":
                return f"  loop: {_cut(step['text'])}"
            case "call":
                return f"  {step['name']} {_cut(_plain(step['arguments']))}"
            case "result":
                name = self._names.get(step["call_id"], step["call_id"])
                outcome = "" if step["outcome"] == "ok" else f" ({step['outcome']})"
                return f"  {name}{outcome} -> {_cut(step['text'])}"
            case "decision":
                said = "approved" if step["is_approved"] else "denied"
                reason = f": {_cut(step['reason'])}" if step["reason"] else ""
                return f"  {self._names.get(step['call_id'], step['call_id'])} {said}{reason}"
            case "end":
                reason = f": {step['reason']}" if step["reason"] else ""
                return f"{step['status']}{reason}"
            case _:
                return ""


def call_line(call: Mapping[str, Any]) -> str:
    """Returns a call in words."""
    return f"{call['name']} {_cut(call['arguments'] or '{}')}"


def summary(run: Mapping[str, Any]) -> str:
    """Returns what a run has used."""
    usage = run["usage"]
    counts = [_counted(usage[f"{unit}s"], unit) for unit in ("turn", "call")]
    return ", ".join([*counts, f"{usage['total_tokens']} tokens", f"{usage['seconds']:.1f} s"])


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def _calls(calls: Sequence[Mapping[str, Any]]) -> str:
    return "calls " + ", ".join(one["name"] for one in calls) if calls else "says nothing"


def _plain(arguments: Mapping[str, Any]) -> str:
    import json

    return json.dumps(arguments, ensure_ascii=False)


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST else f"{line[: _MOST - 4]} ..."

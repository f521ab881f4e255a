"""Entries of the ledger in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepwell.storage.registry.ledger import Entry

__all__ = ["in_words"]


def in_words(entry: Entry) -> str:
    """Returns what an entry tells, in one sentence without its time and author; of a damaged one, that it is."""
    if entry.event not in _SAY:
        return entry.event
    try:
        return _SAY[entry.event](entry.alias, entry.fields)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return f"{entry.event}, of which no more can be read"


def _version(alias: str, told: Mapping[str, Any]) -> str:
    made = f"{told['version']} is {told['model']}"
    if parents := told.get("parents"):
        made += f", made from {', '.join(parents)}"
    if data := told.get("data"):
        made += f" with {', '.join(f'{name} ({digest[:12]})' for name, digest in data.items())}"
    return made + _listed("; ", told.get("metrics", {}))


def _gates(alias: str, told: Mapping[str, Any]) -> str:
    gates = told["report"].get("gates", ())
    failed = [f"{one['name']}: {one['reason']}" for one in gates if not one["passed"]]
    if told["report"].get("passed") is True:
        return f"{told['version']} passed its gates ({', '.join(one['name'] for one in gates)})"
    return f"{told['version']} was refused by its gates: {'; '.join(failed) or 'no reason given'}"


def _canary(alias: str, told: Mapping[str, Any]) -> str:
    said = f"roll-out of {told['version']}: {100 * told['share']:g} % of the users of {alias} get {told['candidate']}"
    said += f", the others {told['model']}"
    if tenants := told.get("tenants"):
        said += f"; votes of {', '.join(tenants)} decide"
    if steps := told.get("steps"):
        said += (
            f"; steps of {', '.join(f'{100 * one:g}' for one in steps)} %, {told['hold_seconds']:g} s each"
        )
    return said + (f"; its gates were passed over: {told['reason']}" if told.get("reason") else "")


def _step(alias: str, told: Mapping[str, Any]) -> str:
    now, before = 100 * told["share"], 100 * told["before"]
    return f"step of the roll-out: {now:g} % of the users of {alias} get the candidate, after {before:g} %"


def _promoted(alias: str, told: Mapping[str, Any]) -> str:
    return f"{alias} means {told['model']} now, and not {told['before']} any more" + _why(told)


def _back(alias: str, told: Mapping[str, Any]) -> str:
    return f"roll-out rolled back: {alias} stays {told['model']}" + _why(told)


def _aborted(alias: str, told: Mapping[str, Any]) -> str:
    return f"roll-out aborted: {alias} stays {told['model']}" + _why(told)


def _reverted(alias: str, told: Mapping[str, Any]) -> str:
    return f"promotion undone: {alias} means {told['model']} again, and not {told['before']}" + _why(told)


def _set(alias: str, told: Mapping[str, Any]) -> str:
    return f"{alias} means {told['model']}" + (
        f", and not {told['before']} any more" if "before" in told else ""
    )


def _removed(alias: str, told: Mapping[str, Any]) -> str:
    return f"{alias} was removed"


def _why(told: Mapping[str, Any]) -> str:
    return f" ({told['reason']})" if told.get("reason") else ""


def _listed(lead: str, values: Mapping[str, Any]) -> str:
    plain = {name: one for name, one in values.items() if isinstance(one, int | float)}
    if plain.get("step") == plain.get("steps"):
        plain.pop("step", None)
    text = ", ".join(f"{name} {_number(one)}" for name, one in list(plain.items())[:6])
    return lead + text if text else ""


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


_SAY = {
    "version": _version,
    "gates": _gates,
    "canary": _canary,
    "step": _step,
    "promoted": _promoted,
    "rolled_back": _back,
    "aborted": _aborted,
    "reverted": _reverted,
    "alias": _set,
    "alias_removed": _removed,
}

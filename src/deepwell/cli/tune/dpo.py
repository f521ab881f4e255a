"""`deepwell tune dpo`: an adapter from pairs of answers, of which one is preferred."""

from __future__ import annotations

from deepwell.cli.output import JsonFlag, reported_errors
from deepwell.cli.tune.preferences import ConfigFile, Held, Model, Output, Preferences, Set, Steps, align

__all__ = ["dpo"]


def dpo(
    config: ConfigFile = None,
    model: Model = None,
    data: Preferences = None,
    validation: Held = None,
    output: Output = None,
    steps: Steps = None,
    set: Set = None,
    json: JsonFlag = False,
) -> None:
    """Train an adapter on pairs of answers by direct preference optimisation, and print the command that serves it."""
    with reported_errors(as_json=json):
        from deepwell.tuning.align.config import DpoConfig

        given = {"model": model, "data": data, "validation": validation, "output": output}
        align(DpoConfig, config, given, steps, set or [], json=json)

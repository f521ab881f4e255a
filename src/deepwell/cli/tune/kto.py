"""`deepwell tune kto`: an adapter from answers with a thumb up or down."""

from __future__ import annotations

from deepwell.cli.output import JsonFlag, reported_errors
from deepwell.cli.tune.preferences import Answers, ConfigFile, Held, Model, Output, Set, Steps, align

__all__ = ["kto"]


def kto(
    config: ConfigFile = None,
    model: Model = None,
    data: Answers = None,
    validation: Held = None,
    output: Output = None,
    steps: Steps = None,
    set: Set = None,
    json: JsonFlag = False,
) -> None:
    """Train an adapter on answers with a thumb up or down (KTO), and print the command that serves it."""
    with reported_errors(as_json=json):
        from deepwell.tuning.align.config import KtoConfig

        given = {"model": model, "data": data, "validation": validation, "output": output}
        align(KtoConfig, config, given, steps, set or [], json=json)

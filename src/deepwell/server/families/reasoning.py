"""The effort of a model's reasoning, as requests of several APIs ask for it."""

from __future__ import annotations

from deepwell.dialogue.model import ServedModel

__all__ = ["reasoning_of"]


def reasoning_of(
    model: ServedModel, effort: str | None, param: str, *, off: str = "'none'"
) -> tuple[bool | None, dict[str, str]]:
    """Returns whether the model is to reason ("none": it is not; None: as its template has it), and the template's variables.

    Args:
        param: the route's name of the effort, for errors.
        off: the value with which the route turns reasoning off, for errors.

    Raises:
        InvalidRequest: the model does not know the effort.
    """
    codec = model.codec
    has_levels = "reasoning_effort" in codec.template_variables
    return codec.dialect.reasoning(effort, param, has_levels=has_levels, off=off)

"""`call_tool`: one call, with its time and its output bounded, whatever the tool does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from deepwell.agents.loop.clean import bounded, clean, is_json, told
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.steps import CallEnded, Outcome
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.errors import DeepwellError

__all__ = ["call_tool", "result_of"]

_log = logging.getLogger("deepwell.agents")
_MOST_FAULT = 500  # characters of a fault that the model reads
_ATTEMPTS = 3  # of a reading call that breaks
_ENDING_S = 5.0  # a call that is told to end has this long to do it


async def call_tool(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolCallContext,
    options: LoopOptions,
    *,
    cancelled: asyncio.Event,
) -> CallEnded:
    """Returns the result of a call; a call that cannot give one has a result that says why.

    With checks, a reading call that breaks is made again at once: most faults of tools pass. A reading call is ended when the
    run is cancelled. A writing one is let finish within its time, so that its outcome is known.
    """
    began = time.monotonic()
    attempts = _ATTEMPTS if options.checks and tool.effects == "reads" else 1
    while True:
        attempts -= 1
        left_s = context.timeout_s - _since(began)
        ended = await _attempt(tool, arguments, replace(context, timeout_s=left_s), options, cancelled)
        if ended.outcome != "fault" or not attempts or left_s <= 0 or cancelled.is_set():
            return structs.replace(ended, seconds=_since(began))


async def _attempt(
    tool: Tool,
    arguments: Mapping[str, Any],
    context: ToolCallContext,
    options: LoopOptions,
    cancelled: asyncio.Event,
) -> CallEnded:
    making = asyncio.ensure_future(_made(tool, arguments, context))
    stop = asyncio.ensure_future(cancelled.wait())
    waits = {making, stop} if tool.effects == "reads" else {making}
    try:
        await asyncio.wait(waits, timeout=max(0.0, context.timeout_s), return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            await _end(making)
            outcome = "cancelled" if tool.effects == "reads" and stop.done() else "timeout"
            return CallEnded(context.call_id, outcome, _unfinished(tool, outcome, options))
    finally:
        stop.cancel()
        if not making.done():  # this process is ending
            making.cancel()
    return _ended(tool, making, context, options)


def result_of(call_id: str, output: ToolOutput, options: LoopOptions) -> CallEnded:
    """Returns the result that a model reads of an output: cut where it is long, and marked where it failed."""
    outcome: Outcome = "failed" if output.failed else "ok"
    text, characters = bounded(clean(output.text), options.output_characters)
    if output.failed:
        text = f"Error: {text}"
    data = output.data if is_json(output.data) else None
    if data is None and output.data is not None:
        _log.warning("the data of the call %s is no JSON and is not kept", call_id)
    if len(repr(data)) > 4 * options.output_characters:
        data = None  # the text has it, as far as it is kept
    return CallEnded(call_id, outcome, text, characters, data=data)


async def _made(tool: Tool, arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
    return await tool.run(arguments, context)


async def _end(making: asyncio.Future[ToolOutput]) -> None:
    making.cancel()
    await asyncio.wait({making}, timeout=_ENDING_S)
    if not making.done():
        _log.warning("a call that was told to end goes on")
        making.add_done_callback(_seen)
    else:
        _seen(making)


def _seen(making: asyncio.Future[ToolOutput]) -> None:
    """Takes the exception of a call whose result nobody waits for, which Python would report as forgotten."""
    if not making.cancelled() and (error := making.exception()) is not None:
        _log.info("a call that was ended failed with %s", type(error).__name__)


def _unfinished(tool: Tool, outcome: Outcome, options: LoopOptions) -> str:
    if outcome == "cancelled":
        return "This call was ended because the run was cancelled."
    said = f"Error: {tool.name} took longer than {options.call_timeout_s:.0f} s and was ended."
    return f"{said} It may have done its work all the same." if tool.effects == "writes" else said


def _ended(
    tool: Tool,
    making: asyncio.Future[ToolOutput],
    context: ToolCallContext,
    options: LoopOptions,
) -> CallEnded:
    if making.cancelled():
        return _fault(tool, context, "it was cancelled")
    error = making.exception()
    if isinstance(error, DeepwellError):
        return result_of(context.call_id, ToolOutput(str(error), failed=True), options)
    if error is not None:
        _log.error("the tool %s failed: %s", tool.name, told(error))
        return _fault(tool, context, f"{type(error).__name__}: {error}")
    output: Any = making.result()
    if not isinstance(output, ToolOutput) or not isinstance(output.text, str):
        return _fault(tool, context, f"it returned {type(output).__name__}, which is no output")
    return result_of(context.call_id, output, options)


def _fault(tool: Tool, context: ToolCallContext, why: str) -> CallEnded:
    text = f"Error: {tool.name} broke ({clean(why)[:_MOST_FAULT]})."
    if tool.effects == "writes":
        text = f"{text} Part of its work may be done."
    return CallEnded(context.call_id, "fault", text)


def _since(began: float) -> float:
    return time.monotonic() - began

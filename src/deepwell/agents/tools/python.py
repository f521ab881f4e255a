"""The tool `python`: a model's program, run in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from deepwell.agents.sandbox import Sandbox, SandboxResult
from deepwell.agents.tools.tool import Tool, ToolCallContext, ToolOutput
from deepwell.models.text.shipped import shipped

__all__ = ["python_tool"]

_SHOWN_CHARACTERS: Final = 4000
_TRACEBACK_LINES: Final = 8
_SHOWN_FILES: Final = 20
_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "code": {
            "type": "string",
            "description": shipped("A whole Python program. Only what it prints is seen."),
            "minLength": 1,
            "maxLength": 100_000,
        }
    },
    "required": ["code"],
    "additionalProperties": False,
}


_DESCRIPTION: Final = shipped(
    "Runs a Python program and returns what it prints. It has the standard library, no network and no files "
    "but those that it writes, and it must end within seconds. Use it to compute, count, sort or check."
)


def python_tool(sandbox: Sandbox | None = None, *, shown_characters: int = _SHOWN_CHARACTERS) -> Tool:
    """Returns the tool. Each call has a sandbox of its own: nothing stays from one call to the next.

    Args:
        sandbox: limits and way of the runs; None: the limits of `SandboxLimits`.
        shown_characters: characters of output that the model reads; the middle of a longer one is cut, and told.
    """
    runs = sandbox or Sandbox()

    async def run(arguments: Mapping[str, Any], context: ToolCallContext) -> ToolOutput:
        result = await runs.run(arguments["code"], seconds=context.timeout_s)
        failed = result.exit_code != 0
        parts = [_bounded(result.stdout, shown_characters)] if result.stdout.strip() else []
        if failed:
            parts.append(_failure(result, min(runs.limits.seconds, context.timeout_s), shown_characters))
        elif not parts:
            parts.append("The program printed nothing. Print the result to see it.")
        if result.files:
            sizes = [f"{name} ({len(data)} bytes)" for name, data in result.files.items()]
            more = f" and {len(sizes) - _SHOWN_FILES} more" if len(sizes) > _SHOWN_FILES else ""
            parts.append(
                f"Files written: {', '.join(sizes[:_SHOWN_FILES])}{more}. They are gone with the program."
            )
        return ToolOutput("\n".join(parts), failed, _data(result))

    return Tool(
        name="python",
        description=_DESCRIPTION,
        parameters=_PARAMETERS,
        run=run,
    )


def _bounded(text: str, most: int) -> str:
    """Returns the text, or its start and its end with a line that tells how much was cut."""
    text = text.rstrip("\n")
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters cut ...]\n{text[-half:]}"


def _failure(result: SandboxResult, seconds: float, most: int) -> str:
    """Returns why the program failed: its limit, or the last lines of its traceback."""
    if result.timed_out:
        return f"The program was ended: it took more than {seconds:g} s."
    lines = result.stderr.rstrip().splitlines()[-_TRACEBACK_LINES:]
    told = "The program ran out of memory." if result.out_of_memory else ""
    if not lines:
        return told or f"The program ended with exit code {result.exit_code}."
    return "\n".join([*([told] if told else []), _bounded("\n".join(lines), most)])


def _data(result: SandboxResult) -> dict[str, Any]:
    return {
        "exit_code": result.exit_code,
        "timed_out": result.timed_out,
        "out_of_memory": result.out_of_memory,
        "stdout": result.stdout,
        "stderr": result.stderr,
        "cut_bytes": result.cut_bytes,
        "files": {name: len(data) for name, data in result.files.items()},
    }

"""The part that every worker program shares: JSON lines in and out, and the arithmetic of token arrivals.

Stand-alone on purpose: it runs under interpreters that hold an engine and not Deepwell.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["answer_stream", "decode_span", "serve"]


def answer_stream() -> Any:
    """Keeps stdout for the answers: whatever an engine prints goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def peak_rss() -> dict[str, int]:
    """Returns the most memory this process has held."""
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def serve(worker: Any, answers: Any) -> None:
    """Answers one request a line until stdin ends: `{"do": METHOD, ...}` calls the worker's method of that name."""
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        name = request.pop("do")
        method: Callable[..., Any] | None = peak_rss if name == "peak_rss" else getattr(worker, name, None)
        try:
            if method is None:
                raise NotImplementedError(f"this engine does not offer {name}")
            answer = method(**request) or {}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def decode_span(streams: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns the seconds and tokens between the moment all streams have begun and the moment the first is done.

    Args:
        streams: For each sequence, the moment each of its tokens arrived.
    """
    start = max(stream[0] for stream in streams)
    end = min(stream[-1] for stream in streams)
    timed = sum(1 for stream in streams for moment in stream if start < moment <= end)
    return {"seconds": end - start, "work_tokens": timed}

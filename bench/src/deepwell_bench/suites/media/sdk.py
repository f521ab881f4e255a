"""`deepwell bench media-sdk`: recordings, speech and images through the official SDK, against a server with real models."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepwell.cli.bench.report import Report
from deepwell_bench.harness.served import serve_command, served
from deepwell_bench.workloads.media.sdk_tour import NOT_SERVED, MediaTour, Models, methods_of

__all__ = ["bench_media_sdk"]


def bench_media_sdk(report: Report, model: Path, models: Models) -> dict[str, Any]:
    """Takes the tour of a server with the synchronous and the asynchronous client, which check every answer strictly.

    Args:
        model: of the server, which answers nothing here.
        models: those that the tour names.
    """
    openai = importlib.import_module("openai")  # before a server is started for nothing
    with served(serve_command(model), env={"DEEPWELL_IMAGE_GUARD": "required"}) as port:
        url = f"http://127.0.0.1:{port}/v1"
        tours = {
            "openai": asyncio.run(_tour(openai.OpenAI, url, models)),
            "async openai": asyncio.run(_tour(openai.AsyncOpenAI, url, models)),
        }
    calls = sum(one.calls for one in tours.values())
    problems = [f"{name}: {problem}" for name, one in tours.items() for problem in one.problems]
    rows = [[name, one.calls, one.calls - len(one.problems)] for name, one in tours.items()]
    report.table("client.audio and client.images, checked strictly", ["client", "calls", "validated"], rows)
    for problem in problems:
        report.note(problem)
    methods = methods_of(openai.OpenAI(api_key="none"))
    return {
        "methods": len(methods),
        "served": len(methods - NOT_SERVED),
        "calls": calls,
        "validated": calls - len(problems),
        "validated_share": (calls - len(problems)) / calls,
        "failed": problems,
    }


async def _tour(kind: Callable[..., Any], url: str, models: Models) -> MediaTour:
    client = kind(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True)
    tour = MediaTour(client, models)
    try:
        await tour.take()
    finally:
        closing = client.close()
        if inspect.isawaitable(closing):
            await closing
    return tour

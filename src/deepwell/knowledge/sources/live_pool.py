"""`LivePool`: live sources that stay open between questions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace

from deepwell.errors import DeepwellError
from deepwell.knowledge.sources.live import LiveAnswers, LiveSource, ask_all
from deepwell.knowledge.sources.opening import open_live
from deepwell.knowledge.sources.options import Access
from deepwell.knowledge.sources.source import SourceSpec

__all__ = ["LivePool"]

_MOST_OPEN = 64


class LivePool:
    """Opens live sources when they are first asked, and keeps up to 64 of them open. It belongs to one event loop.

    Args:
        access: settings of the installation.
    """

    def __init__(self, access: Access | None = None) -> None:
        self._access = access
        self._open: dict[str, LiveSource] = {}

    async def ask(self, specs: Mapping[str, SourceSpec], question: str, limit: int = 10) -> LiveAnswers:
        """Asks live sources by name. One that cannot be opened is an error beside the others' passages."""
        sources: list[LiveSource] = []
        errors: dict[str, DeepwellError] = {}
        async with AsyncExitStack() as stack:
            for name, spec in specs.items():
                try:
                    sources.append(await self._opened(name, spec, stack))
                except DeepwellError as error:
                    errors[name] = error
            answers = await ask_all(sources, question, limit)
        return replace(answers, errors={**errors, **answers.errors})

    async def close(self) -> None:
        """Closes all sources."""
        opened, self._open = list(self._open.values()), {}
        for source in opened:
            await source.close()

    async def _opened(self, name: str, spec: SourceSpec, stack: AsyncExitStack) -> LiveSource:
        """Returns an open source. One more than are kept open is closed with `stack`."""
        key = json.dumps([name, spec.as_json()], sort_keys=True)
        if (source := self._open.get(key)) is not None:
            return source
        source = await asyncio.to_thread(open_live, name, spec, self._access)
        if (other := self._open.get(key)) is not None:  # opened beside us
            await source.close()
            return other
        if len(self._open) < _MOST_OPEN:
            self._open[key] = source
        else:
            stack.push_async_callback(source.close)
        return source

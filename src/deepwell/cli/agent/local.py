"""`LocalRuns`: runs with a model that is loaded here. Their steps lie in the database of this machine."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deepwell.agents.kit import ABOUT, Kit, open_tools
from deepwell.agents.loop.agent import INSTRUCTIONS, Agent, RunOf, begun, run_agent
from deepwell.agents.loop.arguments import require_validator
from deepwell.agents.loop.budget import Budget
from deepwell.agents.loop.models.embedded import EmbeddedModel
from deepwell.agents.loop.models.wire import ModelOptions
from deepwell.agents.loop.options import LoopOptions
from deepwell.agents.loop.steps import Decided, Ended, Entry
from deepwell.agents.mcp.config import McpOptions
from deepwell.cli.agent.asked import AskedRun, Tell
from deepwell.cli.answers import HERE
from deepwell.errors import DeepwellError, InvalidRequest, NotFound
from deepwell.server.families.agents.answering import chosen_calls, following
from deepwell.server.families.agents.described import pending_of, run_body, step_body
from deepwell.server.families.agents.request import KeptRequest
from deepwell.server.families.agents.stored import StoredLog, step_of
from deepwell.server.families.agents.worker import settled
from deepwell.storage.agents import AgentStore, StoredAgentRun
from deepwell.storage.clock import shared_time
from deepwell.storage.database import LOCAL, Database

if TYPE_CHECKING:
    from deepwell.agents.tools.knowledge import KnowledgePassage
    from deepwell.agents.tools.tool import Tool
    from deepwell.llm.asynchronous import AsyncLLM
    from deepwell.settings import Settings

__all__ = ["LocalRuns", "model_of"]

_MOST_TASK = 300


class LocalRuns:
    """Runs agents here. The model is loaded at the first run, and stays until `close`."""

    where = HERE

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = Database.of(settings)
        self._store = AgentStore(self._database)
        self._llm: AsyncLLM | None = None

    def start(self, asked: AskedRun, tell: Tell) -> dict[str, Any]:
        """Begins a run, and returns it once it ends or waits."""
        require_validator()
        return asyncio.run(self._start(asked, tell))

    def follow(self, id: str, tell: Tell) -> dict[str, Any]:
        """Goes on with a run, and returns it once it ends or waits.

        Raises:
            InvalidRequest: a server began it.
        """
        return asyncio.run(self._follow(id, tell))

    def decide(self, id: str, call_ids: Sequence[str] | None, reason: str, *, is_approved: bool) -> None:
        """Keeps a decision about calls of a run."""

        async def work() -> None:
            run = self._own(await self._store.get(LOCAL, id))
            chosen = chosen_calls(run, "approval", call_ids)
            last = (await self._store.steps(LOCAL, id))[-1]
            steps = following(last, [Decided(one.id, is_approved, reason) for one in chosen])
            left = [one for one in pending_of(run) if one not in chosen]
            told = msgspec.json.encode(left).decode() if left else None
            await self._store.answer(LOCAL, id, steps, left=told, payload=None)

        asyncio.run(work())

    def get(self, id: str) -> dict[str, Any]:
        """Returns a run."""
        return _shown(asyncio.run(self._store.get(LOCAL, id)))

    def steps(self, id: str) -> list[dict[str, Any]]:
        """Returns the steps of a run."""
        return [msgspec.to_builtins(step_body(one)) for one in asyncio.run(self._store.steps(LOCAL, id))]

    def list(self, status: str | None, limit: int) -> list[dict[str, Any]]:
        """Returns the newest runs."""
        chosen: Any = status
        page = asyncio.run(self._store.list(LOCAL, status=chosen, limit=limit))
        return [_shown(one) for one in page.data]

    def cancel(self, id: str) -> dict[str, Any]:
        """Ends a run."""

        async def work() -> StoredAgentRun:
            run = await self._store.get(LOCAL, id)
            reason = "the run was cancelled"
            end = step_of(Entry(0, shared_time(), run.seconds, Ended("cancelled", "", reason)))
            return await self._store.cancel(LOCAL, id, end, reason)

        return _shown(asyncio.run(work()))

    def tools(self) -> list[dict[str, Any]]:
        """Returns the tools that there are, each with why it cannot be used."""

        async def work() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = []
            for name in ABOUT:
                why, functions = None, list[Any]()
                try:
                    async with AsyncExitStack() as stack:
                        tools = await self._tools([name], self._settings.agent_folder, None, stack)
                    functions = [one.function().rendered()["function"] for one in tools]
                except DeepwellError as error:
                    why = str(error)
                found.append(
                    {"name": name, "description": ABOUT[name], "functions": functions, "why_not": why}
                )
            return found

        return asyncio.run(work())

    def close(self) -> None:
        """Closes the model and the database."""
        if self._llm is not None:
            asyncio.run(self._llm.close())
        self._database.close()

    async def _start(self, asked: AskedRun, tell: Tell) -> dict[str, Any]:
        names = ["calculator"] if asked.tools is None else list(asked.tools)
        if asked.tools is None and asked.folder is not None:
            names.append("files")
        if asked.knowledge is not None and "knowledge" not in names:
            names.append("knowledge")
        request = KeptRequest(
            self._settings.model,
            INSTRUCTIONS if asked.instructions is None else asked.instructions,
            names,
            None if asked.knowledge is None else [asked.knowledge],
            [],
            Budget(asked.turns, asked.calls, asked.tokens, asked.seconds),
            LoopOptions(checks=asked.checks),
            asked.temperature,
            asked.seed,
            None,
            folder=None if asked.folder is None else str(asked.folder.resolve()),
            is_local=True,
        )
        async with AsyncExitStack() as stack:
            agent = await self._agent(request, stack)
            started = begun(agent, asked.task)
            run = StoredAgentRun(
                f"run_{uuid.uuid4().hex}",
                "in_progress",
                self._settings.model,
                asked.task[:_MOST_TASK],
                request.kept(),
                int(shared_time()),
            )
            await self._store.create(
                LOCAL, run, [step_of(Entry(0, shared_time(), 0.0, started))], payload=None
            )
            tell(_shown(run))
            return await self._drive(run, agent, tell)

    async def _follow(self, id: str, tell: Tell) -> dict[str, Any]:
        run = self._own(await self._store.get(LOCAL, id))
        if run.ended:
            return _shown(run)
        async with AsyncExitStack() as stack:
            agent = await self._agent(KeptRequest.read(run.request), stack)
            return await self._drive(run, agent, tell)

    async def _drive(self, run: StoredAgentRun, agent: Agent, tell: Tell) -> dict[str, Any]:
        cancelled = asyncio.Event()

        def told(entry: Entry) -> None:
            tell(msgspec.to_builtins(step_body(step_of(entry))))

        run = await self._store.settle(LOCAL, replace(run, status="in_progress"))
        log = StoredLog(self._store, LOCAL, run.id, cancelled, told)
        result = await run_agent(agent, log=log, of=RunOf(LOCAL, run.id), cancelled=cancelled)
        return _shown(await self._store.settle(LOCAL, settled(run, result)))

    async def _agent(self, request: KeptRequest, stack: AsyncExitStack) -> Agent:
        folder = None if request.folder is None else Path(request.folder)
        base = request.stores[0] if request.stores else None
        tools = await self._tools(request.tools, folder, base, stack)
        if self._llm is None:
            from deepwell.llm.asynchronous import AsyncLLM

            self._llm = AsyncLLM(request.model)
        await self._llm.open()
        model = EmbeddedModel(self._llm, request.model, ModelOptions(request.temperature, seed=request.seed))
        return Agent(model, tools, request.instructions, request.budget, request.options)

    async def _tools(
        self, names: Sequence[str], folder: Path | None, base: str | None, stack: AsyncExitStack
    ) -> list[Tool]:
        kit = Kit(folder, mcp=McpOptions.of(self._settings))
        if base is not None:
            kit = replace(kit, searcher=await self._searcher(base, stack))
        return await open_tools(names, kit, stack)

    async def _searcher(self, base: str, stack: AsyncExitStack) -> Any:
        from deepwell.knowledge.local import LocalKnowledge

        knowledge = await stack.enter_async_context(LocalKnowledge(self._settings))
        store = await knowledge.find(base)

        async def search(tenant: str, query: str, limit: int) -> Sequence[KnowledgePassage]:
            from deepwell.agents.tools.knowledge import KnowledgePassage

            found = await knowledge.search(store.id, query)
            return [KnowledgePassage(one.filename, one.text, one.score) for one in found[:limit]]

        return search

    def _own(self, run: StoredAgentRun) -> StoredAgentRun:
        if not KeptRequest.read(run.request).is_local:
            raise InvalidRequest.of("agent_run_of_a_server", id=run.id)
        return run


def _shown(run: StoredAgentRun) -> dict[str, Any]:
    return msgspec.to_builtins(run_body(run))


def model_of(settings: Settings, id: str) -> str | None:
    """Returns the model of a run of this machine; None: there is no such run here."""
    database = Database.of(settings)
    try:
        run = asyncio.run(AgentStore(database).get(LOCAL, id))
        return run.model if KeptRequest.read(run.request).is_local else None
    except NotFound:
        return None
    finally:
        database.close()

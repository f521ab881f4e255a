"""A run of an agent whose process is killed in the middle of a writing call: it goes on, and nothing is written twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.agents.loop.scripted import Scripted, say

from deepwell.agents.loop.agent import Agent, RunOf, run_agent
from deepwell.agents.loop.replay import replay
from deepwell.agents.loop.steps import CallEnded
from deepwell.agents.tools.tool import Tool, ToolOutput
from deepwell.server.families.agents.stored import StoredLog
from deepwell.storage.agents import AgentStore, StoredAgentRun
from deepwell.storage.database import LOCAL, Database

WRITE = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}

PROGRAM = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.agents.loop.scripted import Scripted, call
from tests.faults.test_agent_kill import drive, writer

folder = Path(sys.argv[1])
model = Scripted([call(("write", '{"text": "first"}')), call(("write", '{"text": "second"}'))])
asyncio.run(drive(folder, model, writer(folder, hangs_at="second"), "Write two lines.", new=True))
"""


def writer(folder: Path, *, hangs_at: str = "") -> Tool:
    """Appends a line to a file. Having written the line `hangs_at`, it never returns."""

    async def write(arguments: Any, _context: Any) -> ToolOutput:
        with (folder / "lines").open("a") as file:
            file.write(arguments["text"] + "\n")
        if arguments["text"] == hangs_at:
            print("hangs", flush=True)
            await asyncio.Event().wait()
        return ToolOutput("written")

    return Tool("write", "Appends a line.", WRITE, write, "writes")


async def drive(
    folder: Path, model: Scripted, tool: Tool, task: str | None = None, *, new: bool = False
) -> Any:
    """Runs an agent, or goes on with its run, with the log in a database."""
    database = Database.open(folder / "deepwell.db")
    try:
        store = AgentStore(database)
        if new:
            run = StoredAgentRun("run_1", "in_progress", "scripted", "task", "{}", 0)
            await store.create(LOCAL, run, [], payload=None)
        log = StoredLog(store, LOCAL, "run_1", asyncio.Event(), lambda _: None)
        return await run_agent(Agent(model, [tool]), task, log=log, of=RunOf(LOCAL, "run_1"))
    finally:
        database.close()


def test_a_run_survives_its_process(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), root]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "hangs\n"
        child.kill()
    model = Scripted([say("I cannot tell whether the second line is there.")])
    result = asyncio.run(drive(tmp_path, model, writer(tmp_path)))
    assert (tmp_path / "lines").read_text() == "first\nsecond\n"
    outcomes = [one.step.outcome for one in result.entries if isinstance(one.step, CallEnded)]
    assert (result.status, outcomes) == ("completed", ["ok", "unknown"])
    assert "not known whether this call was made" in str(model.asked[0])
    assert replay(result.entries).diverged_at is None

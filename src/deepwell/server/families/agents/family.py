"""The family of agents."""

from __future__ import annotations

from deepwell.server.families.agents.bodies import (
    AgentRun,
    AgentRunDeleted,
    AgentRunList,
    AgentStepList,
    AgentToolList,
)
from deepwell.server.families.agents.routes import RUN, RUNS, TOOLS, router
from deepwell.server.families.agents.schema import (
    AgentRunRequest,
    ApprovalRequest,
    DenialRequest,
    OutputsRequest,
)
from deepwell.server.families.agents.worker import agent_worker
from deepwell.server.families.family import Family
from deepwell.server.http.declaration import Declaration, Operation

__all__ = ["FAMILY"]


FAMILY = Family(
    Declaration(
        (
            Operation("post", RUNS, AgentRun, streams=True, request=AgentRunRequest, name="invoke_agent"),
            Operation("get", RUNS, AgentRunList),
            Operation("get", RUN, AgentRun),
            Operation("delete", RUN, AgentRunDeleted),
            Operation("get", f"{RUN}/steps", AgentStepList, streams=True),
            Operation("post", f"{RUN}/cancel", AgentRun),
            Operation("post", f"{RUN}/approve", AgentRun, request=ApprovalRequest),
            Operation("post", f"{RUN}/deny", AgentRun, request=DenialRequest),
            Operation("post", f"{RUN}/submit_tool_outputs", AgentRun, request=OutputsRequest),
            Operation("get", TOOLS, AgentToolList),
        ),
        api="deepwell",
    ),
    router,
    worker=agent_worker,
)

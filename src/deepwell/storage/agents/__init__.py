"""Runs of agents, and their steps."""

from __future__ import annotations

from deepwell.storage.agents.store import (
    AGENT_JOB,
    MOST_OPEN,
    AgentStatus,
    AgentStore,
    StepTaken,
    StoredAgentRun,
    StoredStep,
    TooManyAgentRuns,
    delete_runs,
)

__all__ = [
    "AGENT_JOB",
    "MOST_OPEN",
    "AgentStatus",
    "AgentStore",
    "StepTaken",
    "StoredAgentRun",
    "StoredStep",
    "TooManyAgentRuns",
    "delete_runs",
]

"""`/v1/agents`: runs of agents, their steps, and the tools that they may call."""

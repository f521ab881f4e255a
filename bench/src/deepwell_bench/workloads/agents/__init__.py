"""Tasks for agents with real tools: held-out ones that are frozen, others to develop on, and a scripted solver."""

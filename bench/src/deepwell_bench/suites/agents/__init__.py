"""Agents: a scripted and a small model on tasks with real tools, faults of tools, and hostile results."""

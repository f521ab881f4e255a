"""Agents: tools, the loop that lets a model call them, the sandbox, rules, and planning in a learned world."""

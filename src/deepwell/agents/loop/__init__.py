"""The loop of agents: a model calls tools, within budgets, and every step of a run is kept."""

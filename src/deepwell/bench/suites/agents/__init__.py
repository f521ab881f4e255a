"""Measurements of agents: what they plan with, decide by, and reach."""

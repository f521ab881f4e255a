"""Clients of moderation services outside: their request shapes, and what happens when they fail."""

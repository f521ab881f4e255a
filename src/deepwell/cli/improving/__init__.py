"""Rounds of improvement beside a server: `deepwell serve --improve`."""

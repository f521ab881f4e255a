"""Suites on hostile ground: what an attacker reaches, and what it costs everybody else."""

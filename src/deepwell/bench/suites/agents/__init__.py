"""Benchmarks of agents and of what they stand on."""

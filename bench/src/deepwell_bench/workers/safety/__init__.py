"""Processes that the benchmarks of safety start."""

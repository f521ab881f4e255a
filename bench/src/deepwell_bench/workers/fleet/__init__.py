"""Processes that benchmarks and tests of promotion start, and kill."""

"""Benchmarks of safety: what is found, what is found wrongly, and how long it takes."""

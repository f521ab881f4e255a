"""Benchmarks of recordings and speech."""

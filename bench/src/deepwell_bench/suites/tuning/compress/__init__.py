"""Benchmarks of compression: pruning, search, conversion and quantisation."""

"""Benchmarks on a Ray cluster of two nodes on this machine."""

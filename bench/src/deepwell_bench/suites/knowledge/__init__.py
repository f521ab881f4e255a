"""Benchmarks of knowledge: retrieval, answers, speed, currency."""

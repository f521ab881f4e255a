"""Benchmarks of deployments: switches under load, overhead, scaling and faults."""

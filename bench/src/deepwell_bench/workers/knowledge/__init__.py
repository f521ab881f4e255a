"""Workers of the benchmarks of knowledge."""

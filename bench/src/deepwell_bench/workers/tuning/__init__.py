"""Programs of the training benchmarks: each trains in a process of its own."""

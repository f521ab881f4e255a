"""Data of the tuning benchmarks: readers of pinned packages, and the hashes of the sets that are held out."""

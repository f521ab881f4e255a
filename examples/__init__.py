"""Applications of Deepwell, a folder each."""

"""Data to better weights: prepare it, train on it, evaluate what came of it."""

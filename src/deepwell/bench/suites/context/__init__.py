"""Suites on contexts longer than the model's."""

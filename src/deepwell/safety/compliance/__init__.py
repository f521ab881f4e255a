"""Compliance: packs of checks that run, with their evidence, and questions that people answer."""

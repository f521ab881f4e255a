"""Runs of other kinds in the queue of trainings: searches for prompts, and smaller models."""

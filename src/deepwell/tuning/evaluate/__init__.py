"""Evaluation of models and adapters, on the engine that serves them."""

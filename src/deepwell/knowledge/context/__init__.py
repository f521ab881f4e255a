"""Contexts longer than the model's: compression of text to a token budget, and retrieval over a conversation's history."""

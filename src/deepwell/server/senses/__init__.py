"""Senses of a server: pictures and recordings for its embeddings and its knowledge."""

"""Decoding of recordings."""

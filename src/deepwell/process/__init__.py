"""Processes that watch each other: supervised children, and framed messages between them."""

"""Supervised child processes, and framed messages between processes."""

"""Readings of a text: folded, joined, unwrapped and deciphered, each with the way back to the original characters."""

"""Frozen texts that a candidate and the current model are compared on. Nothing is ever trained on them."""

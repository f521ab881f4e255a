"""Computes of compression that need torch: activations of the donor, the search, and recovery."""

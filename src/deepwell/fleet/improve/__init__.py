"""Improvement: what users say of answers becomes a better adapter that passes gates and a canary, or is refused."""

"""Passages to a grounded answer: prompt, citations, checks, and the decision to decline."""

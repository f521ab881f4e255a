"""Prompts and judges of alignment for safety."""

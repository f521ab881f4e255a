"""Promotion: gates, the split of users, the sequential test, and roll-outs that promote or roll back."""

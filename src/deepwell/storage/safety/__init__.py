"""Stores of safety: the audit trail and its anchors, policies of tenants, answers to compliance questions, erasures."""

"""Rewards: sources of scores for answers."""

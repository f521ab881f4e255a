"""Ratings: people compare pairs of answers of two models, blind and in random order."""

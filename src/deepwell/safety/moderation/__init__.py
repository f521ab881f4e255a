"""Moderation of texts: how harmful an answer is, and of which of OpenAI's thirteen categories."""

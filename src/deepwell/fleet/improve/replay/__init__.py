"""Requests, and beginnings of texts, whose answers a training by votes replays. None of them is in the frozen texts."""

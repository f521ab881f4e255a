"""Models that a loop can ask: a server over HTTP, and a model in this process."""

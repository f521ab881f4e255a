"""The server: load, latency, caches, clients, structured output, minutes of real use."""

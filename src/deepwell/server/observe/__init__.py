"""Observation of the server from outside: access log, metrics, traces, and the names that they use."""

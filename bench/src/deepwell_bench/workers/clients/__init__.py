"""Programs that drive clients of the API against a running server. Each runs in the environment of its client."""

"""Pages of `docs/reference` that are made from the settings and the verbs."""

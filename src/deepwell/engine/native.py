"""The compiled backend. Falls back to `reference` loudly when the extension is missing (see `select_backend`)."""

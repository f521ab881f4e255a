"""Privacy: one person's data, found, exported and erased in every place that keeps any."""

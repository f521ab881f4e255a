"""Training data: read, check, clean, label, augment and split it."""

"""`deepwell bench`: alignment, feedback and promotion."""

"""`/v1/fine_tuning/jobs`: training of adapters, and their serving."""

"""`/v1/evals`: evaluations, their runs and the items of runs."""

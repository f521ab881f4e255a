"""`/v1/prompt_optimisations`: jobs that search for a better prompt."""

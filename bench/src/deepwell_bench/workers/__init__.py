"""Programs that each drive one engine for a comparison; all but ours run in that engine's own environment."""

"""Training of world models with torch: the twin of `model.py`, its errors, the replay, and the run."""

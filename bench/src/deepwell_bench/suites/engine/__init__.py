"""Speed of the engine: against roofs, against other engines, with one technique and without."""

"""Work that is cut into pieces: each is finished once, kept, and the same wherever it is computed."""

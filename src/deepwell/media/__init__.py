"""Sound that comes in and goes out: its decoding, and the recognition of speech."""

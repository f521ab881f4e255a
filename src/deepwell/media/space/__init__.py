"""One space of text, image and sound: vectors that are compared across the three."""

"""Architecture search: candidates, their predicted loss and speed, evolution, and the front. Nothing here needs torch."""

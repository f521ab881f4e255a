"""Active learning: choose which texts to label next, and measure what the choice saves against a random one."""

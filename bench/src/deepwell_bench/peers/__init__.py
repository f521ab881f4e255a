"""The engines that are compared, Deepwell's own among them, and how each is driven."""

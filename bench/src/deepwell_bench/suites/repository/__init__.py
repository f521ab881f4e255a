"""The repository itself: its test suites, a newcomer's clone, and earlier commits beside this one."""

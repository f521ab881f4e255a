"""Makes models smaller: what is cut, by which scores, and the folder that every engine loads."""

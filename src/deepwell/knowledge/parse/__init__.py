"""Files to documents: one module a format, found by the bytes, run in a process with limits."""

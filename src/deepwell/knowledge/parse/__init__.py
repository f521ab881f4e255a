"""Files to text that knows where it came from: one module a format, run in a process with limits."""

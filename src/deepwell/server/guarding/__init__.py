"""The guard in the server: what it reads of a request, of passages and of answers, and what it lets through."""

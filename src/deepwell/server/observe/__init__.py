"""What is seen of the server from outside: access log, traces, and the names metrics go by."""

"""Applications: what each of the examples reaches on inputs that were fixed before it was built."""

"""Documents to grounded context: parse, chunk, embed, index, search, cite."""

"""The text side of a request, free of HTTP: chat template, tokens, grammars, tools, completion and stop strings."""

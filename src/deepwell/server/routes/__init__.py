"""One file an OpenAI family, each with `router(service)`."""

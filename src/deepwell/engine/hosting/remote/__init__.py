"""Engines beyond this machine: the `Engine` protocol over HTTP, for vLLM, SGLang, and any OpenAI-compatible server."""

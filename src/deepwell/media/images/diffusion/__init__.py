"""Draws with pipelines of diffusers, in a process of their own: the only place beside training where torch is."""

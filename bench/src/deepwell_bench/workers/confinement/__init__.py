"""Processes of `deepwell bench confinement`: the attacked server, its children, and the environments that it runs in."""

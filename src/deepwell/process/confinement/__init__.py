"""Confinement of processes that read data of strangers: namespaces, Landlock and a list of allowed system calls."""

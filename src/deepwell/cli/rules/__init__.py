"""`deepwell rules`: rule sets, checked and run."""

from deepwell.cli.rules.verbs import register

__all__ = ["register"]

"""`deepwell batch`: a batch file answered without a server."""

from deepwell.cli.batch.verb import register

__all__ = ["register"]

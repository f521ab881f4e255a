"""`deepwell bench`: alignment, feedback and promotion."""

from __future__ import annotations

from deepwell.cli.bench.options import Json, Row, measure

__all__ = ["ledger", "rollout_kills"]


def ledger(row: Row = None, json: Json = False) -> None:
    """Reads the story of an alias with `deepwell models log`, and flips a bit of every byte of it."""
    from deepwell.bench.suites.align.ledger import bench_ledger

    measure("ledger", row, json, bench_ledger)


def rollout_kills(row: Row = None, json: Json = False) -> None:
    """Kills a process that rolls versions out, and lets the votes of users end canaries."""
    from deepwell.bench.suites.align.rollout_kills import bench_rollout_kills

    measure("rollout_kills", row, json, bench_rollout_kills)

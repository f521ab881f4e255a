"""Verbs of `deepwell bench` on what leaves: moderation and the scanner of streams."""

from __future__ import annotations

from deepwell.cli.bench.options import Json, Row, measure

__all__ = ["moderation", "streaming"]


def moderation(row: Row = None, json: Json = False) -> None:
    """Judges the moderation of answers by people's scores, one category of harm after another left out of training."""
    from deepwell.bench.suites.safety.moderation import bench_moderation

    measure("moderation", row, json, bench_moderation)


def streaming(row: Row = None, json: Json = False) -> None:
    """Splits 500 texts at every place of a forbidden term, and times the scanner of streams."""
    from deepwell.bench.suites.safety.streaming import bench_streaming

    measure("streaming", row, json, bench_streaming)

"""`deepwell bench`: alignment, feedback and promotion."""

from __future__ import annotations

from deepwell.cli.bench.options import Json, Model, Row, measure, model_path

__all__ = ["feedback_sdk"]


def feedback_sdk(model: Model = None, row: Row = None, json: Json = False) -> None:
    """Sends feedback through the official SDK to both stores: fields, ties to answers, limits, curation, erasure."""
    from deepwell.bench.suites.align.feedback import bench_feedback_sdk

    path = model_path(model)
    measure("feedback_sdk", row, json, lambda report: bench_feedback_sdk(report, path))

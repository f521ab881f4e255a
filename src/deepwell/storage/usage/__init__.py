"""Usage of models, kept by tenant, key, model and hour."""

from __future__ import annotations

from deepwell.storage.usage.rows import (
    HOUR_S,
    MediaPlace,
    MediaSource,
    MediaUsage,
    Usage,
    UsagePlace,
    UsageStore,
)

__all__ = ["HOUR_S", "MediaPlace", "MediaSource", "MediaUsage", "Usage", "UsagePlace", "UsageStore"]

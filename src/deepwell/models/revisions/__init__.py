"""New revisions of stored models on their sources: what each source says now, and what differs. No weights are fetched."""

from __future__ import annotations

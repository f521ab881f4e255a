"""`deepwell models updates`: new revisions of stored models on their sources."""

from __future__ import annotations

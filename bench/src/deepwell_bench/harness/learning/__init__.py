"""The learning path as programs: its pages are parsed and played."""

from __future__ import annotations

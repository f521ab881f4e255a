"""Attacks and benign texts on which safety is measured, read from pinned packages that are opened and never run."""

"""Product texts with control of style, length and terms: a brief, the text that keeps to it, and how both are compared."""

from deepwell.agents.writing.brief import Brief, Measured, length_of, measure, read_briefs
from deepwell.agents.writing.compose import Composition, Writer, compose, plain

__all__ = [
    "Brief",
    "Composition",
    "Measured",
    "Writer",
    "compose",
    "length_of",
    "measure",
    "plain",
    "read_briefs",
]

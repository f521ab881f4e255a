"""Labels of generated content: a mark that people see or hear, and fields that programs read (GB 45438-2025, Article 50)."""

from deepwell.safety.labels.audio import labelled_audio, read_audio_label, with_rhythm
from deepwell.safety.labels.fields import AigcLabel
from deepwell.safety.labels.image import labelled_png, read_png_label
from deepwell.safety.labels.mark import with_corner_mark
from deepwell.safety.labels.text import (
    closing_mark,
    has_mark,
    labelled,
    read_text_label,
    response_metadata,
    text_file,
)

__all__ = [
    "AigcLabel",
    "closing_mark",
    "has_mark",
    "labelled",
    "labelled_audio",
    "labelled_png",
    "read_audio_label",
    "read_png_label",
    "read_text_label",
    "response_metadata",
    "text_file",
    "with_corner_mark",
    "with_rhythm",
]

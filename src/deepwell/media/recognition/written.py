"""Transcripts as text and as subtitles: SubRip (SRT) and WebVTT."""

from __future__ import annotations

import html
from collections.abc import Iterable

from deepwell.media.recognition.options import Segment

__all__ = ["srt", "text_of", "vtt"]


def text_of(segments: Iterable[Segment]) -> str:
    """Returns the text of all segments."""
    return "".join(segment.text for segment in segments).strip()


def srt(segments: Iterable[Segment]) -> str:
    """Returns segments as SubRip subtitles."""
    return "".join(
        f"{number}\n{_time(one.start, ',')} --> {_time(one.end, ',')}\n{_line(one.text)}\n\n"
        for number, one in enumerate(segments, 1)
    )


def vtt(segments: Iterable[Segment]) -> str:
    """Returns segments as WebVTT subtitles (W3C WebVTT, section 4). Characters that begin markup are escaped."""
    cues = (
        f"{_time(one.start, '.')} --> {_time(one.end, '.')}\n{html.escape(_line(one.text), quote=False)}\n\n"
        for one in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def _line(text: str) -> str:
    """Returns a text in one line, which an empty line or an arrow cannot end early."""
    return " ".join(text.split()).replace("-->", "->")


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"

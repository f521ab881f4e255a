"""Transcripts as text and as subtitles."""

from __future__ import annotations

from deepwell.media.recognition.languages import LANGUAGES, language_name
from deepwell.media.recognition.options import Segment
from deepwell.media.recognition.written import srt, text_of, vtt


def segment(start: float, end: float, text: str) -> Segment:
    return Segment(0, 0, start, end, text, [], 0.0, -0.1, 1.0, 0.0)


SEGMENTS = [segment(0, 1.5, " One & two."), segment(3599.9996, 3725.25, " Three\n\n--> <b>four</b>")]


def test_text_is_joined_as_the_model_writes_it() -> None:
    assert text_of([segment(0, 1, " Hello,"), segment(1, 2, " world.")]) == "Hello, world."
    assert text_of([segment(0, 1, "你好"), segment(1, 2, "世界")]) == "你好世界"
    assert text_of([]) == ""


def test_srt_has_numbers_and_times_and_no_cue_ends_early() -> None:
    assert srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:01,500\nOne & two.\n\n"
        "2\n01:00:00,000 --> 01:02:05,250\nThree -> <b>four</b>\n\n"
    )
    assert srt([]) == ""


def test_vtt_escapes_markup() -> None:
    assert vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nOne &amp; two.\n\n"
        "01:00:00.000 --> 01:02:05.250\nThree -&gt; &lt;b&gt;four&lt;/b&gt;\n\n"
    )
    assert vtt([]) == "WEBVTT\n\n"


def test_languages_have_names() -> None:
    assert len(LANGUAGES) == 100
    assert (language_name("en"), language_name("zh"), language_name("xx")) == ("english", "chinese", "xx")

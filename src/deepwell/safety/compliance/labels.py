"""Checks of labels: they are on, and what is written into text, images and sound is read back."""

from __future__ import annotations

import io
import struct
import wave
import zlib
from collections.abc import Mapping
from typing import Final

from deepwell.safety.compliance.checks import Fact, Function, Outcome, Words, failed, passed
from deepwell.safety.compliance.context import Context
from deepwell.safety.labels import (
    AigcLabel,
    has_mark,
    labelled,
    labelled_audio,
    labelled_png,
    read_audio_label,
    read_png_label,
    read_text_label,
    text_file,
    with_corner_mark,
    with_rhythm,
)
from deepwell.safety.labels.image import SIGNATURE, chunk

__all__ = ["FUNCTIONS"]

_POLICY: Final = Words("policy", "策略")
_LABEL: Final = Words("label", "label（标识开关）")
_PRODUCER: Final = Words("producer", "producer（服务提供者编码）")
_READ: Final = Words("embedded label, read back", "隐式标识（写入后读回）")
_VISIBLE: Final = Words("visible mark", "显式标识")
_NO_GUARD: Final = Words("none: the setting `guard` is unset", "无：未设置 `guard`")


def labels_on(context: Context) -> Outcome:
    """Checks that the policy marks generated content, and names who makes it."""
    policy = context.policy
    if policy is None:
        return failed(Fact(_POLICY, _NO_GUARD))
    facts = (
        Fact(_POLICY, f"{policy.name} ({policy.hash[:12]})"),
        Fact(_LABEL, str(policy.label).lower()),
        Fact(_PRODUCER, policy.producer or Words("not set", "未设置")),
    )
    return passed(*facts) if policy.label and policy.producer else failed(*facts)


def text_label(context: Context) -> Outcome:
    """Marks a text and a text file, reads both back, and checks that labels are on."""
    label = _label(context)
    marked = [labelled("Water boils.", "en"), labelled("水开了。", "zh")]
    read = read_text_label(text_file(marked[0], label))
    facts = (
        Fact(_VISIBLE, " / ".join(text.splitlines()[-1] for text in marked)),
        Fact(_READ, "" if read is None else read.text()),
        *_on(context),
    )
    return (
        passed(*facts) if all(map(has_mark, marked)) and read == label and _is_on(context) else failed(*facts)
    )


def image_label(context: Context) -> Outcome:
    """Marks a PNG image that is made for the check, and reads its label back."""
    label = _label(context)
    plain = _image()
    seen = with_corner_mark(plain)
    read = read_png_label(labelled_png(seen, label))
    facts = (
        Fact(_VISIBLE, Words("letters in the lower right corner", "右下角文字")),
        Fact(_READ, "" if read is None else read.text()),
        *_on(context),
    )
    return passed(*facts) if seen != plain and read == label and _is_on(context) else failed(*facts)


def audio_label(context: Context) -> Outcome:
    """Marks a WAV and an MP3 file that are made for the check, and reads their labels back."""
    label = _label(context)
    plain = _sound()
    heard = with_rhythm(plain)
    read = [
        read_audio_label(labelled_audio(sound, label)) for sound in (heard, b"\xff\xfb\x90\x00" + bytes(413))
    ]
    longer = (len(heard) - len(plain)) / 2 / 8000
    facts = (
        Fact(
            _VISIBLE, Words(f"rhythm of {longer:.1f} s before the sound", f"声音前的 {longer:.1f} 秒节奏提示")
        ),
        Fact(_READ, " / ".join("" if one is None else one.text() for one in read)),
        *_on(context),
    )
    return passed(*facts) if longer > 0 and read == [label, label] and _is_on(context) else failed(*facts)


FUNCTIONS: Final[Mapping[str, Function]] = {
    "labels-on": labels_on,
    "label-text": text_label,
    "label-image": image_label,
    "label-audio": audio_label,
}


def _is_on(context: Context) -> bool:
    return context.policy is not None and context.policy.label


def _on(context: Context) -> tuple[Fact, ...]:
    return (Fact(_LABEL, _NO_GUARD if context.policy is None else str(context.policy.label).lower()),)


def _label(context: Context) -> AigcLabel:
    producer = context.policy.producer if context.policy is not None else ""
    return AigcLabel.first(producer or "check", "check-0001", "sha256:0")


def _image() -> bytes:
    header = struct.pack(">IIBBBBB", 128, 96, 8, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + b"\x80" * 384) * 96)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _sound() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(1600))
    return buffer.getvalue()

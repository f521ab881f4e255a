"""`keep_alive`: how long a model is to stay in memory behind a request, in ollama's notation."""

from __future__ import annotations

import math
import re

__all__ = ["keep_alive_s"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"([-+]?)((?:{_NUMBER}(?:ns|us|µs|μs|ms|s|m|h))+|{_NUMBER})", re.ASCII)
_MOST_CHARACTERS = 64
_MOST_SECONDS = 1e12  # more is for ever


def keep_alive_s(value: object) -> float | None:
    """Returns the seconds that a `keep_alive` asks for: 0 to unload at once, infinity for ever, None for the server's default.

    A number counts seconds, and so does a string that is one; "1h30m" is Go's notation of durations. Anything below 0 is for
    ever.

    Raises:
        ValueError: it is no duration.
    """
    if value is None:
        return None
    if isinstance(value, str):
        found = _DURATION.fullmatch(value) if len(value) <= _MOST_CHARACTERS else None
        if found is None:
            raise ValueError(f"{value[:_MOST_CHARACTERS]!r} is no duration")
        sign, text = found.groups()
        parts = _PART.findall(text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts) if parts else float(text)
        return math.inf if sign == "-" and seconds else seconds
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise ValueError(f"{value!r} is no duration")
    return math.inf if value < 0 or value > _MOST_SECONDS else float(value)

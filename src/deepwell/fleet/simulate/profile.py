"""`Profile`: the measured speed of one replica, as a small JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import msgspec

from deepwell.errors import InvalidRequest

__all__ = ["Profile", "read_profile", "write_profile"]

_MOST_BYTES: Final = 1 << 20
_MOST_POINTS: Final = 1024
_MOST_BATCH: Final = 4096
_MOST_S: Final = 86_400.0  # of one step, or one token: a slower replica is none


@dataclass(frozen=True, slots=True)
class Profile:
    """The speed and the limits of one replica.

    A step of an engine with continuous batching takes the time of its decoding rows, plus that of the prompt tokens beside
    them, plus that of reading the KV cache. A replica of kind "slots" gives each request its own pace instead.

    Attributes:
        decode: pairs of a number of decoding sequences and the seconds of a step with them, by rising number. Between two
            points, and beyond the last one, the time is linear.
        prefill_s: seconds of a step that only computes a prompt, before its first token; for "slots", seconds to the first
            token of an empty prompt.
        prefill_s_per_token: seconds of each prompt token that no cache had.
        mixed_prefill_s_per_token: the same in a step with decoding sequences, which shares the reading of weights; None: equal.
        context_s_per_token: seconds that a step takes longer for each token in the KV cache of its sequences.
        overhead_s: seconds of a request outside of the engine: network, parsing, tokenisation.
        max_batch: sequences that run side by side; further ones wait.
        kv_tokens: tokens of the KV cache, for running sequences and for prefixes.
        context: tokens a sequence may hold, prompt and answer together.
        prefill_tokens: prompt tokens of a step without decoding sequences.
        mixed_prefill_tokens: prompt tokens of a step with decoding sequences.
        measured: facts about the measurement, for people.
    """

    name: str
    decode: tuple[tuple[int, float], ...]
    prefill_s_per_token: float
    prefill_s: float
    overhead_s: float = 0.0
    kind: Literal["steps", "slots"] = "steps"
    mixed_prefill_s_per_token: float | None = None
    context_s_per_token: float = 0.0
    max_batch: int = 64
    kv_tokens: int = 65_536
    context: int = 8192
    prefill_tokens: int = 512
    mixed_prefill_tokens: int = 128
    measured: Mapping[str, str | float | int] = field(default_factory=dict[str, str | float | int])

    def step_table(self) -> list[float]:
        """Returns the seconds of a step by its number of decoding sequences, from 0 to `max_batch`."""
        return [self.prefill_s, *(_between(self.decode, rows) for rows in range(1, self.max_batch + 1))]

    @property
    def best_tokens_per_s(self) -> float:
        """Tokens a second of a full batch whose prompts cost nothing."""
        return self.max_batch / _between(self.decode, self.max_batch)


def _between(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Returns the seconds for a number of rows on the line through the two nearest points; beyond the last, no line falls."""
    if len(points) == 1 or rows <= points[0][0]:
        return points[0][1]
    begin, end = next((pair for pair in pairwise(points) if rows <= pair[1][0]), (points[-2], points[-1]))
    slope = (end[1] - begin[1]) / (end[0] - begin[0])
    if rows > end[0]:
        return end[1] + max(0.0, slope) * (rows - end[0])
    return begin[1] + slope * (rows - begin[0])


def write_profile(profile: Profile, path: Path) -> None:
    """Writes a profile as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n")


def read_profile(path: Path) -> Profile:
    """Reads a profile.

    Raises:
        InvalidRequest: the file is no profile, or a number in it is impossible.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(_MOST_BYTES + 1)
    try:
        if len(data) > _MOST_BYTES:
            raise ValueError(f"it is longer than {_MOST_BYTES} bytes")
        profile = msgspec.json.decode(data, type=Profile)
        _check(profile)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRequest.of("simulate_profile", path=path, reason=error) from None
    return profile


def _check(profile: Profile) -> None:
    points = profile.decode
    if not 0 < len(points) <= _MOST_POINTS:
        raise ValueError(f"decode holds {len(points)} points; it needs 1 to {_MOST_POINTS}")
    if points[0][0] < 1 or any(later[0] <= one[0] for one, later in pairwise(points)):
        raise ValueError("the numbers of sequences in decode do not rise from 1")
    if not all(0 < seconds <= _MOST_S for _, seconds in points):
        raise ValueError("a time in decode is not above 0, or above a day")
    for name in ("prefill_s_per_token", "prefill_s", "overhead_s", "context_s_per_token"):
        if not 0 <= getattr(profile, name) <= _MOST_S:
            raise ValueError(
                f"{name} is {getattr(profile, name)}; it must be 0 or more, and no more than a day"
            )
    if not 0 <= (profile.mixed_prefill_s_per_token or 0.0) <= _MOST_S:
        raise ValueError(f"mixed_prefill_s_per_token is {profile.mixed_prefill_s_per_token}")
    for name in ("kv_tokens", "context", "prefill_tokens", "mixed_prefill_tokens"):
        if getattr(profile, name) < 1:
            raise ValueError(f"{name} is {getattr(profile, name)}; it must be 1 or more")
    if not 1 <= profile.max_batch <= _MOST_BATCH:
        raise ValueError(f"max_batch is {profile.max_batch}; it must be 1 to {_MOST_BATCH}")

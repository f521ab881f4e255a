"""Protocols of what looks at pictures and listens to recordings. The server and the command line bring them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Listener", "Look", "Senses", "TranscriptSegment", "Viewer"]


@dataclass(frozen=True, slots=True)
class Look:
    """A picture as it was seen.

    Attributes:
        text: a description by caption and words; empty: nothing that it shows is known.
        vector: float32 [dimensions], a unit vector that compares with the vectors of queries.
        anchor: name of the embedder whose queries these are.
    """

    text: str
    vector: NDArray[np.float32]
    anchor: str


@dataclass(frozen=True, slots=True)
class TranscriptSegment:
    """A stretch of a recording's transcript, with its times in seconds."""

    start_s: float
    end_s: float
    text: str


class Viewer(Protocol):
    """Looks at pictures."""

    def identity(self) -> str:
        """Returns what a picture is looked at with: another text where other models would say other things; empty: nothing."""
        ...

    async def look(self, tenant: str, path: Path) -> Look:
        """Returns what is seen in the picture at `path`.

        Raises:
            ModelNotFound, MissingDependency: there is nothing to look with; the fix names the command that brings it.
            DeepwellError: the file cannot be read, or is refused.
        """
        ...


class Listener(Protocol):
    """Transcribes recordings."""

    def identity(self) -> str:
        """Returns what a recording is transcribed with, as `Viewer.identity`."""
        ...

    async def listen(self, tenant: str, path: Path) -> Sequence[TranscriptSegment]:
        """Returns the transcript of the recording at `path`, in order.

        Raises:
            ModelNotFound, MissingDependency: there is nothing to listen with; the fix names the command that brings it.
            DeepwellError: the file cannot be read, or takes more than the limits.
        """
        ...


@dataclass(frozen=True, slots=True)
class Senses:
    """A viewer and a listener.

    Attributes:
        close: ends their processes.
    """

    viewer: Viewer
    listener: Listener
    close: Callable[[], Awaitable[None]]

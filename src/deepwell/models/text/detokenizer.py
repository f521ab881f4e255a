"""Turns token ids into text as they arrive, without partial UTF-8 characters or parts of stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

from deepwell.errors import InvalidRequest
from deepwell.models.text.tokenizer import Tokenizer

__all__ = ["Detokenizer", "StopStrings"]


class Detokenizer:
    """Decodes one sequence piece by piece. The joined pieces equal `Tokenizer.decode` of all ids.

    Bytes of an unfinished character wait for the rest of it. Bytes that are not UTF-8 become U+FFFD. Control tokens
    are skipped, except those in `visible`.
    """

    def __init__(self, tokenizer: Tokenizer, visible: frozenset[int] = frozenset()) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - visible
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Returns the text that `ids` complete."""
        tokenizer = self._tokenizer
        kept = (i for i in ids if i not in self._skipped)
        return self._decoder.decode(b"".join(map(tokenizer.token_bytes, kept)))

    def finish(self) -> str:
        """Returns the text of the bytes still held back after the last `push`."""
        return self._decoder.decode(b"", final=True)


class StopStrings:
    """Finds the first stop string in streamed text, however it is chunked, and holds back text that may become one.

    The match that completes first wins. If several complete at the same character, the longest wins. The match and all
    text after it are never returned.

    Raises:
        InvalidRequest: one of `stops` is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise InvalidRequest("a stop string is empty", param="stop")
        self._stops = tuple(stops)
        self._held = ""
        self._matched: str | None = None

    def push(self, text: str) -> tuple[str, str | None]:
        """Returns the text that is safe to emit, and the stop string that ended the sequence, if any."""
        if self._matched is not None:
            return "", self._matched
        text = self._held + text
        ends = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            _, start, self._matched = min(ends)
            self._held = ""
            return text[:start], self._matched
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """Returns the text held back when the sequence ends without completing a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0

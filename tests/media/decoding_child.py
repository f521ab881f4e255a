"""A child that decodes files: `python -m tests.media.decoding_child FD`."""

from __future__ import annotations

import sys

import msgspec

from deepwell.errors import DeepwellError
from deepwell.media.audio.decode import decode_audio
from deepwell.process.calls import answer_calls, limit_memory, limited

MEMORY_BYTES = 512 << 20
PROCESSOR_S = 20.0


class _Child:
    def __init__(self) -> None:
        self._most_s: float | None = None

    def answer(self, body: bytes, file: int = -1) -> bytes:
        if self._most_s is None:
            self._most_s = float(body)
            limit_memory(MEMORY_BYTES)
            return b""
        try:
            with limited(PROCESSOR_S):
                sound = decode_audio(file, self._most_s)
        except DeepwellError as error:
            return msgspec.json.encode(
                {"error": type(error).__name__, "key": error.texts[0], "said": str(error)}
            )
        return msgspec.json.encode({"seconds": sound.seconds, "codec": sound.codec})


if __name__ == "__main__":
    answer_calls(int(sys.argv[1]), _Child().answer)

"""faster-whisper as a benchmark peer: its own decoding and defaults on the same model, asked over JSON lines."""

from __future__ import annotations

import time
from typing import Any

from deepwell_bench.workers.loop import answer_stream, serve


class Peer:
    """One model."""

    def __init__(self) -> None:
        self.model: Any = None

    def load(self, folder: str, threads: int, seed: int) -> dict[str, Any]:
        """Loads a model in int8 and returns the versions."""
        import ctranslate2
        import faster_whisper

        ctranslate2.set_random_seed(seed)
        self.model = faster_whisper.WhisperModel(
            folder, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )
        return {
            "version": f"faster-whisper {faster_whisper.__version__}, ctranslate2 {ctranslate2.__version__}"
        }

    def transcribe(self, path: str) -> dict[str, Any]:
        """Returns the text of a file, and the seconds that it took."""
        start = time.perf_counter()
        segments, _ = self.model.transcribe(path)
        text = "".join(segment.text for segment in segments).strip()
        return {"text": text, "seconds": time.perf_counter() - start}


def main() -> None:
    """Answers until stdin ends."""
    serve(Peer(), answer_stream())


if __name__ == "__main__":
    main()

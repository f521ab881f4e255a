"""Deepwell as a worker of a comparison: in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from deepwell.cli.bench.engine import Ours
from deepwell.cli.bench.scorer import Scorer
from deepwell.engine.backends.native import isa, select_backend
from deepwell_bench.workers.loop import answer_stream, serve


class Worker:
    """One loaded engine."""

    def info(self) -> dict[str, Any]:
        """Returns the kernel table in use."""
        return {"version": "", "system_info": f"{isa()} kernels"}

    def load(self, path: str, threads: int, precision: Any, sequences: int) -> dict[str, Any]:
        """Opens the engine with room for `sequences` sequences of 192 tokens, or one prompt of 512."""
        self.model, self.precision = Path(path), precision
        kv_tokens = max(1024, (sequences + 2) * 256)
        self.ours = Ours(self.model, precision, threads=threads, kv_tokens=kv_tokens)
        return {"bytes": self.ours.weights_bytes}

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Times a prompt from submission to the first token."""
        run = self.ours.prefill(prompt)
        return {"seconds": run.seconds, "work_tokens": run.work_tokens, "tokens": run.outputs}

    def generate(self, prompts: list[list[int]], count: int) -> dict[str, Any]:
        """Continues every prompt; scheduler and sampler included."""
        run = self.ours.generate(prompts, count)
        return {"seconds": run.seconds, "work_tokens": run.work_tokens, "tokens": run.outputs}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """Sums negative log probabilities, each window from an empty context."""
        scorer = Scorer(select_backend(), self.model, self.precision, max(map(len, windows)))
        loss, count = 0.0, 0
        for window in windows:
            ids = np.array(window, np.int32)
            chosen = scorer.logprobs(ids)[np.arange(len(ids) - 1), ids[1:]]
            loss, count = loss - float(chosen.sum(dtype=np.float64)), count + len(chosen)
        return {"loss": loss, "tokens": count}


if __name__ == "__main__":
    serve(Worker(), answer_stream())
    sys.exit()

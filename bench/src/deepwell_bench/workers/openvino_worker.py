"""OpenVINO GenAI as a worker: reads the GGUF itself, for `LLMPipeline` or for continuous batching."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from loop import answer_stream, decode_span, serve


class Worker:
    """One loaded model, in one of the two pipelines."""

    def __init__(self) -> None:
        self._ids = itertools.count()

    def info(self) -> dict[str, Any]:
        """Returns the versions, and what the CPU plug-in says of itself."""
        import openvino
        import openvino_genai

        core = openvino.Core()
        about = [
            f"openvino {openvino.__version__}",
            *(
                f"{key} {core.get_property('CPU', key)}"
                for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES", "KV_CACHE_PRECISION")
            ),
        ]
        return {"version": openvino_genai.__version__, "system_info": " | ".join(about)}

    def load(
        self, path: str, threads: int, pipeline: str, dynamic_group: int, sequences: int
    ) -> dict[str, Any]:
        """Loads a GGUF into the pipeline "sdpa" (stateful, one stream) or "paged" (continuous batching).

        `dynamic_group` is DYNAMIC_QUANTIZATION_GROUP_SIZE; 0 leaves activations in floating point.
        """
        import openvino
        import openvino_genai

        self.ov, self.genai = openvino, openvino_genai
        properties = {"INFERENCE_NUM_THREADS": threads, "DYNAMIC_QUANTIZATION_GROUP_SIZE": dynamic_group}
        self.one: Any = None
        self.many: Any = None
        if pipeline == "sdpa":
            self.one = openvino_genai.LLMPipeline(path, "CPU", ATTENTION_BACKEND="SDPA", **properties)
        else:
            scheduler = openvino_genai.SchedulerConfig()
            scheduler.enable_prefix_caching = False
            scheduler.max_num_batched_tokens = 2048
            scheduler.max_num_seqs = sequences
            scheduler.cache_size = 1
            self.many = openvino_genai.ContinuousBatchingPipeline(path, scheduler, "CPU", properties)
        return {"bytes": Path(path).stat().st_size}

    def _config(self, count: int) -> Any:
        config = self.genai.GenerationConfig()
        config.max_new_tokens = count
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        return config

    def _stateful(self, prompt: list[int], count: int) -> tuple[list[list[float]], list[list[int]]]:
        moments: list[float] = []
        tokens: list[int] = []
        outer = self.genai

        class Clock(outer.StreamerBase):
            def write(self, token: Any) -> Any:
                arrived = list(token) if isinstance(token, (list, tuple)) else [token]
                tokens.extend(arrived)
                moments.extend([time.perf_counter()] * len(arrived))
                return outer.StreamingStatus.RUNNING

            def end(self) -> None:
                pass

        ids = self.ov.Tensor(np.array([prompt], np.int64))
        mask = self.ov.Tensor(np.ones((1, len(prompt)), np.int64))
        self.one.generate(outer.TokenizedInputs(ids, mask), self._config(count), Clock())
        return [moments], [tokens]

    def _batched(self, prompts: list[list[int]], count: int) -> tuple[list[list[float]], list[list[int]]]:
        handles = [
            self.many.add_request(
                next(self._ids), self.ov.Tensor(np.array([prompt], np.int64)), self._config(count)
            )
            for prompt in prompts
        ]
        moments: list[list[float]] = [[] for _ in prompts]
        tokens: list[list[int]] = [[] for _ in prompts]
        while self.many.has_non_finished_requests():
            self.many.step()
            now = time.perf_counter()
            for handle, moment, stream in zip(handles, moments, tokens, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        stream.extend(output.generated_ids)
                        moment.extend([now] * len(output.generated_ids))
        return moments, tokens

    def _arrivals(self, prompts: list[list[int]], count: int) -> tuple[list[list[float]], list[list[int]]]:
        if self.one is None:
            return self._batched(prompts, count)
        if len(prompts) > 1:
            raise NotImplementedError("the stateful pipeline serves one stream")
        return self._stateful(prompts[0], count)

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
        """Sums negative log probabilities, which continuous batching states for an echoed prompt."""
        if self.many is None:
            raise NotImplementedError("the stateful pipeline states no probabilities of a prompt")
        config = self._config(0)
        config.echo = True
        config.logprobs = 1
        loss, count = 0.0, 0
        for window in windows:
            handle = self.many.add_request(
                next(self._ids), self.ov.Tensor(np.array([window], np.int64)), config
            )
            while self.many.has_non_finished_requests():
                self.many.step()
            stated = handle.read_all()[0].generated_log_probs[1:]  # of the first token there is none
            loss, count = loss - sum(stated), count + len(stated)
        return {"loss": loss, "tokens": count}


if __name__ == "__main__":
    serve(Worker(), answer_stream())

"""transformers as a worker: the model's own forward pass with its dynamic cache; greedy choice by argmax."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import time
from typing import Any

from loop import answer_stream, serve


class Worker:
    """One loaded model."""

    def info(self) -> dict[str, Any]:
        """Returns the versions and what torch was built with."""
        import torch
        import transformers

        lines = [
            f"torch {torch.__version__}",
            f"CPU capability {torch.backends.cpu.get_cpu_capability()}",
            f"oneDNN {torch.backends.mkldnn.is_available()}",
            f"MKL {torch.backends.mkl.is_available()}",
        ]
        return {"version": transformers.__version__, "system_info": " | ".join(lines)}

    def load(self, path: str, threads: int, dtype: str, sequences: int) -> dict[str, Any]:
        """Loads an exported checkpoint in `dtype`."""
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation="sdpa", local_files_only=True
        ).eval()
        weights = {p.data_ptr(): p.numel() * p.element_size() for p in self.model.parameters()}
        return {"bytes": sum(weights.values())}

    def _begin(self, prompts: list[list[int]]) -> Any:
        ids = self.torch.tensor(prompts)
        return self.model(input_ids=ids, use_cache=True, logits_to_keep=1)

    def prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Times a prompt from an empty cache to the first token."""
        start = time.perf_counter()
        token = int(self._begin([prompt]).logits[0, -1].argmax())
        return {"seconds": time.perf_counter() - start, "work_tokens": len(prompt), "tokens": [[token]]}

    def generate(self, prompts: list[list[int]], count: int) -> dict[str, Any]:
        """Prefills all prompts, which are of one length, then times `count - 1` steps."""
        state = self._begin(prompts)
        token = state.logits[:, -1].argmax(-1, keepdim=True)
        outputs = [token]
        start = time.perf_counter()
        for _ in range(count - 1):
            state = self.model(input_ids=token, past_key_values=state.past_key_values, use_cache=True)
            token = state.logits[:, -1].argmax(-1, keepdim=True)
            outputs.append(token)
        tokens = self.torch.cat(outputs, 1).tolist()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "work_tokens": len(prompts) * (count - 1), "tokens": tokens}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """Sums negative log probabilities, each window from an empty context."""
        loss, count = 0.0, 0
        for window in windows:
            ids = self.torch.tensor([window])
            logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss += float(self.torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += len(window) - 1
        return {"loss": loss, "tokens": count}


if __name__ == "__main__":
    serve(Worker(), answer_stream())

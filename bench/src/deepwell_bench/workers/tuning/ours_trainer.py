"""Deepwell's training step as a worker: the written-out forward and backward pass, AdamW on the adapters."""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from deepwell_bench.workers.loop import answer_stream, serve


class Worker:
    """One model with fresh adapters."""

    def load(
        self, path: str, rows: str, threads: int, precision: str, micro: int, batch: int, dropout: float
    ) -> dict[str, Any]:
        """Loads an exported checkpoint and the rows; `micro` rows are computed at a time, `batch` make a step."""
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        from deepwell.tuning.train.batches import Batch
        from deepwell.tuning.train.forward.loss import unsupported
        from deepwell.tuning.train.forward.memory import keep_freed_memory

        keep_freed_memory()
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        transformers.utils.logging.disable_progress_bar()
        self.torch, self.batch, self.micro = torch, batch, micro
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
        config = LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=dropout,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config)
        self.trained = [part for part in self.model.parameters() if part.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-4, weight_decay=0.0)
        found = json.loads(Path(rows).read_text(encoding="utf-8"))
        fields = ("token_ids", "positions", "segments", "loss_mask")
        pads = (0, 0, -1, False)
        self.micros = []
        for start in range(0, len(found) // batch * batch, micro):
            group = found[start : start + micro]
            width = max(len(row["token_ids"]) for row in group)
            columns = [
                torch.tensor([row[field] + [pad] * (width - len(row[field])) for row in group])
                for field, pad in zip(fields, pads, strict=True)
            ]
            self.micros.append(Batch(*columns))
        self.next = 0
        return {"unsupported": unsupported(self.model) or "", "trained": sum(p.numel() for p in self.trained)}

    def check(self, rows: int) -> dict[str, Any]:
        """Returns the mean loss of the first rows, nothing dropped."""
        from deepwell.tuning.train.forward.loss import loss

        self.model.eval()
        total, count = 0.0, 0
        with self.torch.no_grad():
            for micro in self.micros[: max(1, rows // self.micro)]:
                found, labelled = loss(self.model, micro)
                total, count = total + float(found), count + labelled
        return {"loss": total / count, "labelled": count}

    def steps(self, count: int) -> dict[str, Any]:
        """Runs steps; returns their time and number of real tokens."""
        from deepwell.tuning.train.forward.loss import loss

        self.model.train()
        tokens, last = 0, 0.0
        start = time.perf_counter()
        for _ in range(count):
            per_step = self.batch // self.micro
            micros = [self.micros[(self.next + i) % len(self.micros)] for i in range(per_step)]
            self.next += per_step
            labelled = sum(micro.labelled for micro in micros)
            last = 0.0
            for micro in micros:
                found, _ = loss(self.model, micro)
                (found / labelled).backward()
                last += float(found.detach()) / labelled
                tokens += micro.tokens
            self.torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return {"elapsed": time.perf_counter() - start, "tokens": tokens, "loss": last}

    def profile(self, rows: int) -> dict[str, Any]:
        """Returns the shares of a step's time by operator, the largest first."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as found:
            self.steps(1)
        events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
        total = sum(event.self_cpu_time_total for event in events)
        return {
            "shares": [
                [event.key, event.self_cpu_time_total / total, event.self_cpu_time_total / 1e3, event.count]
                for event in events[:rows]
            ]
        }


if __name__ == "__main__":
    serve(Worker(), answer_stream())

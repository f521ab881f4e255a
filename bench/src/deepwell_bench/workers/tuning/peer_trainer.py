"""peft and transformers' own Trainer as a worker, on the same packed rows.

Without an attention mask transformers reads the positions, which begin anew in every example, and lets none see another. Only
the steps are timed: from the first that begins to the last that ends, without the Trainer's own set-up.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from deepwell_bench.workers.loop import answer_stream, serve


class Worker:
    """One model with fresh adapters."""

    def load(
        self, path: str, rows: str, threads: int, precision: str, micro: int, batch: int, dropout: float
    ) -> dict[str, Any]:
        """Loads an exported checkpoint and the rows.

        Args:
            precision: "fp32"; "bf16 weights": the frozen weights are bf16; "bf16 autocast": those of fp32 are cast.
        """
        os.environ["ACCELERATE_USE_CPU"] = "true"
        import torch
        import transformers
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self.torch = torch
        self.micro, self.batch, self.autocast = micro, batch, precision == "bf16 autocast"
        dtype = torch.bfloat16 if precision == "bf16 weights" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation="sdpa", local_files_only=True
        )
        config = LoraConfig(
            r=16,
            lora_alpha=32,
            lora_dropout=dropout,
            target_modules=["q_proj", "v_proj"],
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(model, config)
        found = json.loads(Path(rows).read_text(encoding="utf-8"))
        self.rows = [
            {
                "input_ids": row["token_ids"],
                "position_ids": row["positions"],
                "labels": [
                    token if mark else -100
                    for token, mark in zip(row["token_ids"], row["loss_mask"], strict=True)
                ],
            }
            for row in found[: len(found) // batch * batch]
        ]
        self.next = 0
        self.scratch = tempfile.TemporaryDirectory()
        return {"trained": sum(p.numel() for p in self.model.parameters() if p.requires_grad)}

    def _collate(self, rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        """Flattens the rows into one, as `DataCollatorWithFlattening` does; the positions keep the examples apart."""
        return {name: self.torch.tensor([[x for row in rows for x in row[name]]]) for name in rows[0]}

    def check(self, rows: int) -> dict[str, Any]:
        """Returns the mean loss of the first rows, nothing dropped."""
        self.model.eval()
        total, count = 0.0, 0
        with self.torch.no_grad(), self._formats():
            for start in range(0, rows, self.micro):
                batch = self._collate(self.rows[start : start + self.micro])
                labelled = int((batch["labels"][:, 1:] != -100).sum())
                total += float(self.model(**batch, use_cache=False).loss) * labelled
                count += labelled
        return {"loss": total / count, "labelled": count}

    def _formats(self) -> Any:
        return self.torch.autocast("cpu", dtype=self.torch.bfloat16, enabled=self.autocast)

    def steps(self, count: int) -> dict[str, Any]:
        """Runs steps; returns their time and number of real tokens."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        class Clock(TrainerCallback):
            begin = end = 0.0

            def on_step_begin(self, *_: Any, **__: Any) -> None:
                self.begin = self.begin or time.perf_counter()

            def on_step_end(self, *_: Any, **__: Any) -> None:
                self.end = time.perf_counter()

        wanted = count * self.batch
        rows = [self.rows[(self.next + i) % len(self.rows)] for i in range(wanted)]
        self.next += wanted
        clock = Clock()
        arguments = TrainingArguments(
            output_dir=self.scratch.name,
            per_device_train_batch_size=self.micro,
            gradient_accumulation_steps=self.batch // self.micro,
            max_steps=count,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
            bf16=self.autocast,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
        )
        trainer = Trainer(
            self.model, arguments, train_dataset=rows, data_collator=self._collate, callbacks=[clock]
        )
        result = trainer.train()
        tokens = sum(len(row["input_ids"]) for row in rows)
        return {"elapsed": clock.end - clock.begin, "tokens": tokens, "loss": result.training_loss}


if __name__ == "__main__":
    serve(Worker(), answer_stream())

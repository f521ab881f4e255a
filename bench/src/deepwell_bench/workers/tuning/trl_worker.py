"""The losses of trl on given tensors, for the comparison with Deepwell's. Runs in trl's environment, without Deepwell.

`python trl_worker.py FOLDER` reads the model, the adapter and the batches that `alignment_losses make FOLDER` wrote, and writes
`theirs.json` with the losses and `theirs-CASE.safetensors` with the gradients of the adapter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

__all__ = ["main"]


def main(folder: Path) -> None:
    """Computes all cases of a folder."""
    work = json.loads((folder / "work.json").read_text())
    losses: dict[str, float] = {}
    for case in work["cases"]:
        trainer = _trainer(folder, case, work["lora"])
        inputs = _pairs(work) if case["algorithm"] == "dpo" else _judged(work)
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        losses[case["name"]] = loss.item()
        slopes = {
            name: one.grad.contiguous()
            for name, one in trainer.model.named_parameters()
            if one.grad is not None
        }
        save_file(slopes, folder / f"theirs-{case['name']}.safetensors")
    (folder / "theirs.json").write_text(json.dumps(losses))


def _trainer(folder: Path, case: dict[str, Any], lora: dict[str, Any]) -> Any:
    model = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    words = {"<pad>": 0, "<end>": 1, "a": 2, "b": 3, "c": 4}
    special = {"pad_token": "<pad>", "eos_token": "<end>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, "<end>")), **special)
    shared: dict[str, Any] = {
        "output_dir": str(folder / "trl"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": [],
        "beta": case["beta"],
        "per_device_train_batch_size": 2,
    }
    peft_config = LoraConfig(task_type="CAUSAL_LM", **lora)
    if case["algorithm"] == "dpo":
        data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
        trainer: Any = DPOTrainer(
            model=model,
            args=DPOConfig(**shared),
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=peft_config,
        )
    else:
        data = Dataset.from_list(
            [
                {"prompt": "a", "completion": "b", "label": True},
                {"prompt": "b", "completion": "c", "label": False},
            ]
        )
        desirable, undesirable = case["weights"]
        args = KTOConfig(**shared, desirable_weight=desirable, undesirable_weight=undesirable)
        trainer = KTOTrainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=peft_config
        )
    state = load_file(folder / "adapter.safetensors")
    scale = case.get("scale", 1.0)
    state = {name: one * scale if "lora_B" in name else one for name, one in state.items()}
    found = set_peft_model_state_dict(trainer.model, state)
    assert not found.unexpected_keys, found.unexpected_keys
    return trainer


def _pairs(work: dict[str, Any]) -> dict[str, Any]:
    pairs = work["pairs"]
    rows = [(one["prompt"], one[side]) for side in ("preferred", "rejected") for one in pairs]
    return _padded(rows, "")


def _judged(work: dict[str, Any]) -> dict[str, Any]:
    judged = work["judged"]
    return {
        **_padded([(one["prompt"], one["answer"]) for one in judged], ""),
        **_padded([(one["prompt"], one["mismatched"]) for one in judged], "KL_"),
        "label": torch.tensor([one["desirable"] for one in judged]),
    }


def _padded(rows: list[tuple[list[int], list[int]]], prefix: str) -> dict[str, Any]:
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    seen, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    for number, (prompt, answer) in enumerate(rows):
        whole = [*prompt, *answer]
        ids[number, : len(whole)] = torch.tensor(whole)
        seen[number, : len(whole)] = 1
        mask[number, len(prompt) : len(whole)] = 1
    return {
        f"{prefix}input_ids": ids,
        f"{prefix}attention_mask": seen,
        f"{prefix}completion_mask": mask,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

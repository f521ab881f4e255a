"""Computes what must change nothing in training, in float32: `python -m ... MODEL SAMPLE FOLDER` prints one line of JSON.

Dropout is off where steps are cut into other pieces, because each piece draws its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from peft import PeftModel

from deepwell.tuning.train import bases, lora
from deepwell.tuning.train.batches import collate
from deepwell.tuning.train.config import LoraConfig, parse_config
from deepwell.tuning.train.dataset import load_dataset
from deepwell.tuning.train.forward.loss import outcome
from deepwell.tuning.train.merge import merge_adapter
from deepwell.tuning.train.run import Stopped, run_sft
from deepwell.tuning.train.served import ServedModel

_EXAMPLES: Final = 8
_PROBES: Final = 4


def main(model: Path, sample: Path, folder: Path) -> None:
    """Prints the largest differences: of gradients relative to the largest value of a matrix, of logits as they are."""
    found: dict[str, Any] = dict(_gradients(model, sample))
    resumed, adapter = _resumed(model, sample, folder)
    found["resume_differs"] = resumed
    found["served"] = _rounded(_served(model, sample, adapter))
    merged = merge_adapter(model, adapter, folder / "merged")
    found["merged"] = None if merged.difference is None else _rounded(merged.difference)
    found["merged_float64"] = _rounded(_merged_float64(model, sample, adapter, folder / "merged"))
    print(json.dumps(found), flush=True)


def _rounded(value: float) -> float:
    return float(f"{value:.2e}")


def _gradients(path: Path, sample: Path) -> dict[str, float]:
    base = bases.open_base(str(path))
    examples = load_dataset(parse_config({"data": str(sample)}), base.codec, 256).train[:_EXAMPLES]
    model = lora.add_lora(
        bases.load_model(base), base.config, LoraConfig.model_validate({"dropout": 0}), 0
    ).train()
    _disturb(model)
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    labelled = sum(one.labelled for one in examples)

    def of(pieces: Any, *, checkpointing: bool = False) -> dict[str, Any]:
        for rows in pieces:
            (outcome(model, collate(rows), checkpointing=checkpointing).loss / labelled).backward()
        found = {name: one.grad.clone() for name, one in trained.items() if one.grad is not None}
        model.zero_grad()
        assert found.keys() == trained.keys()
        return found

    def differs(one: dict[str, Any], other: dict[str, Any]) -> float:
        return float(f"{max(float((one[n] - other[n]).abs().max() / one[n].abs().max()) for n in one):.2e}")

    torch.manual_seed(0)
    whole = of([[examples]])
    return {
        "accumulation": differs(whole, of([[[one]] for one in examples])),
        "checkpointing": differs(whole, of([[examples]], checkpointing=True)),
    }


def _disturb(model: Any) -> None:
    """Gives B values: with zeros, A has no gradient."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.copy_(torch.randn(one.shape, generator=generator) * 0.02)


def _resumed(model: Path, sample: Path, folder: Path) -> tuple[int, Path]:
    """Returns the number of bytes by which a run that was stopped twice differs, and the adapter."""
    settings = {"steps": 5, "batch_tokens": 512, "precision": "fp32", "learning_rate": 1e-3}
    config = parse_config({"model": str(model), "data": str(sample), "validation": 0, "train": settings})

    def silent(_: dict[str, Any]) -> None:
        pass

    whole = run_sft(config, folder / "whole", on_event=silent)
    polls = iter([False, True, True])
    for _ in range(2):
        with contextlib.suppress(Stopped):
            run_sft(config, folder / "cut", on_event=silent, stop=lambda: next(polls, False))
    cut = run_sft(config, folder / "cut", on_event=silent)
    one, other = ((path / "adapter_model.safetensors").read_bytes() for path in (whole, cut))
    return sum(a != b for a, b in zip(one, other, strict=True)), whole


def _merged_float64(path: Path, sample: Path, adapter: Path, merged: Path) -> float:
    """Returns the difference of logits that comes from the merge alone: float64 leaves out the rounding of the products."""
    base = bases.open_base(str(path))
    examples = load_dataset(parse_config({"data": str(sample)}), base.codec, 256).train[:_PROBES]
    apart = PeftModel.from_pretrained(bases.load_model(base), str(adapter)).eval().double()
    whole = bases.load_model(bases.open_base(str(merged))).double()
    with torch.inference_mode():
        tokens = [torch.tensor(one.token_ids)[None] for one in examples]
        return max(float((apart(one).logits - whole(one).logits).abs().max()) for one in tokens)


def _served(path: Path, sample: Path, adapter: Path) -> float:
    """Returns the largest difference between the logits that transformers computes with the adapter and served ones."""
    base = bases.open_base(str(path))
    examples = load_dataset(parse_config({"data": str(sample)}), base.codec, 256).train[:_PROBES]
    model = PeftModel.from_pretrained(bases.load_model(base), str(adapter)).eval()
    served = ServedModel(base.checkpoint, 256)
    loaded = served.adapter(adapter)
    most = 0.0
    for example in examples:
        with torch.inference_mode():
            wanted = model(torch.tensor(example.token_ids)[None]).logits[0].numpy()
        most = max(most, float(np.abs(served.logits(example.token_ids, loaded) - wanted).max()))
    return most


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

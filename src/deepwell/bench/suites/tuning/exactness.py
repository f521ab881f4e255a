"""What must change nothing in training changes nothing, measured in float32 on the real model.

Dropout is off where steps are cut into other pieces, because each piece draws its own.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np

from deepwell.bench.harness.report import Report
from deepwell.bench.suites.tuning.readme import SAMPLE
from deepwell.bench.suites.tuning.runs import need_torch

__all__ = ["bench_tuning_exactness"]

_EXAMPLES: Final = 8
_PROBES: Final = 4


def bench_tuning_exactness(report: Report, model: Path) -> dict[str, Any]:
    """Compares gradients, resumed runs, merged weights and served logits.

    Returns the largest differences: of a gradient relative to the largest value of its matrix, and of logits in absolute terms.

    Raises:
        PeerError: this environment has no torch.
    """
    need_torch("tuning-exactness")
    gradients = _gradients(model)
    with tempfile.TemporaryDirectory() as folder:
        resumed, adapter = _resumed(model, Path(folder))
        served = _served(model, adapter)
        from deepwell.tuning.train.merge import merge_adapter

        merged = merge_adapter(model, adapter, Path(folder) / "merged")
    value = {
        **gradients,
        "resume_differs": resumed,
        "merged": float(f"{merged.difference:.2e}") if merged.difference is not None else None,
        "served": float(f"{served:.2e}"),
    }
    report.table(
        "Largest differences, in float32",
        ["of", "difference"],
        [
            ["gradients: 1 x 8 conversations and 8 x 1", gradients["accumulation"]],
            ["gradients: activations kept and computed again", gradients["checkpointing"]],
            ["bytes of adapters: stopped twice and uninterrupted", resumed],
            ["logits: merged and apart, both served", value["merged"]],
            ["logits: trained and served", value["served"]],
        ],
    )
    return value


def _gradients(path: Path) -> dict[str, float]:
    import torch

    from deepwell.tuning.train import bases, lora
    from deepwell.tuning.train.batches import collate
    from deepwell.tuning.train.config import LoraConfig, parse_config
    from deepwell.tuning.train.dataset import load_dataset
    from deepwell.tuning.train.forward.loss import outcome

    base = bases.open_base(str(path))
    examples = load_dataset(parse_config({"data": str(SAMPLE)}), base.codec, 256).train[:_EXAMPLES]
    model = lora.add_lora(bases.load_model(base), base.config, LoraConfig.model_validate({"dropout": 0}), 0).train()
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
    import torch

    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, one in model.named_parameters():
            if "lora_B" in name:
                one.copy_(torch.randn(one.shape, generator=generator) * 0.02)


def _resumed(model: Path, folder: Path) -> tuple[int, Path]:
    """Returns the number of bytes by which a run that was stopped twice differs, and the adapter."""
    from deepwell.tuning.train.config import parse_config
    from deepwell.tuning.train.run import Stopped, run_sft

    settings = {"steps": 5, "batch_tokens": 512, "precision": "fp32", "learning_rate": 1e-3}
    config = parse_config({"model": str(model), "data": str(SAMPLE), "validation": 0, "train": settings})

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


def _served(path: Path, adapter: Path) -> float:
    """Returns the largest difference between the logits that transformers computes with the adapter and served ones."""
    import torch
    from peft import PeftModel

    from deepwell.tuning.train import bases
    from deepwell.tuning.train.config import parse_config
    from deepwell.tuning.train.dataset import load_dataset
    from deepwell.tuning.train.served import ServedModel

    base = bases.open_base(str(path))
    examples = load_dataset(parse_config({"data": str(SAMPLE)}), base.codec, 256).train[:_PROBES]
    model = PeftModel.from_pretrained(bases.load_model(base), str(adapter)).eval()
    served = ServedModel(base.checkpoint, 256)
    loaded = served.adapter(adapter)
    most = 0.0
    for example in examples:
        with torch.inference_mode():
            wanted = model(torch.tensor(example.token_ids)[None]).logits[0].numpy()
        most = max(most, float(np.abs(served.logits(example.token_ids, loaded) - wanted).max()))
    return most

"""Losses of DPO and KTO on given tensors beside trl's: `make FOLDER` writes the tensors, `compare FOLDER` prints both.

Model, adapter and tokens are the same; forward passes, log-ratios, losses and gradients are each program's own.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from deepwell.tuning.align.losses import answer_sums, dpo_loss, kto_loss, kto_shift
from deepwell.tuning.train.batches import Batch, collate
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.loss import logprobs, reference_logprobs

__all__ = ["compare", "make", "ours"]

_LORA: Final = {
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "lora_dropout": 0.0,
}
_SIZES: Final = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_CASES: Final[tuple[dict[str, Any], ...]] = (
    {"name": "dpo", "algorithm": "dpo", "beta": 0.1},
    {"name": "dpo-strong", "algorithm": "dpo", "beta": 0.7},
    {"name": "kto", "algorithm": "kto", "beta": 0.1, "weights": [1.0, 1.0]},
    {"name": "kto-weighted", "algorithm": "kto", "beta": 0.5, "weights": [2.0, 0.75]},
    # A small change and its opposite: one of them makes answers to other prompts less likely, so the reference point is zero.
    {"name": "kto-small", "algorithm": "kto", "beta": 0.5, "weights": [1.0, 1.5], "scale": 0.05},
    {"name": "kto-opposite", "algorithm": "kto", "beta": 0.5, "weights": [1.0, 1.5], "scale": -0.05},
)


def make(folder: Path) -> None:
    """Writes a random model, an adapter that changes it, and batches of answers of different lengths."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**_SIZES))
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.1)
    base.save_pretrained(folder / "model")
    wrapped = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **_LORA))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape) * 0.15
    state = {name: one.contiguous() for name, one in get_peft_model_state_dict(wrapped).items()}
    save_file(state, folder / "adapter.safetensors")
    draw = random.Random(1)  # noqa: S311 - a draw, not a secret

    def tokens(least: int, most: int) -> list[int]:
        return [draw.randrange(2, 300) for _ in range(draw.randint(least, most))]

    pairs = [
        {"prompt": tokens(2, 20), "preferred": tokens(1, 25), "rejected": tokens(1, 25)} for _ in range(8)
    ]
    judged = [
        {"prompt": tokens(2, 20), "answer": tokens(1, 25), "desirable": number % 3 > 0}
        for number in range(12)
    ]
    for number, one in enumerate(judged):
        one["mismatched"] = judged[number - 1]["answer"]
    work = {"cases": _CASES, "lora": _LORA, "pairs": pairs, "judged": judged}
    (folder / "work.json").write_text(json.dumps(work), encoding="utf-8")


def ours(folder: Path) -> dict[str, tuple[float, dict[str, Tensor]]]:
    """Returns Deepwell's loss of every case, and the gradients of the adapter."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    found: dict[str, tuple[float, dict[str, Tensor]]] = {}
    for case in work["cases"]:
        model = _model(folder, case)
        loss = _dpo(model, work, case) if case["algorithm"] == "dpo" else _kto(model, work, case)
        loss.backward()
        slopes = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found[case["name"]] = loss.item(), slopes
    return found


def compare(folder: Path) -> dict[str, Any]:
    """Returns the losses of both programs, and the largest differences of losses and of gradients."""
    work = json.loads((folder / "work.json").read_text(encoding="utf-8"))
    theirs = json.loads((folder / "theirs.json").read_text(encoding="utf-8"))
    losses: dict[str, dict[str, float]] = {}
    slope_differences: list[float] = []
    for name, (loss, slopes) in ours(folder).items():
        losses[name] = {"ours": loss, "theirs": theirs[name]}
        expected = load_file(folder / f"theirs-{name}.safetensors")
        assert slopes.keys() == expected.keys(), slopes.keys() ^ expected.keys()
        slope_differences += [_apart(slopes[one], expected[one]) for one in slopes]
    shifts = [float(_shift(_model(folder, one), work)) for one in work["cases"] if one["algorithm"] == "kto"]
    return {
        "compared": len(losses),
        "largest_difference": max(abs(one["ours"] - one["theirs"]) for one in losses.values()),
        "largest_gradient_difference": max(slope_differences),
        "reference_points_above_zero": sum(one > 0 for one in shifts),
        "reference_points_at_zero": sum(one == 0 for one in shifts),
        "losses": losses,
    }


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _model(folder: Path, case: Mapping[str, Any]) -> Any:
    base = LlamaForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **_LORA))
    state = load_file(folder / "adapter.safetensors")
    scale = case.get("scale", 1.0)
    state = {name: one * scale if "lora_B" in name else one for name, one in state.items()}
    set_peft_model_state_dict(model, state)
    return model.train()


def _dpo(model: Any, work: Mapping[str, Any], case: Mapping[str, Any]) -> Tensor:
    sides = [
        _log_ratios(model, [(one["prompt"], one[side]) for one in work["pairs"]])
        for side in ("preferred", "rejected")
    ]
    return dpo_loss(sides[0], sides[1], case["beta"]).mean()


def _kto(model: Any, work: Mapping[str, Any], case: Mapping[str, Any]) -> Tensor:
    judged = work["judged"]
    shift = _shift(model, work)
    ratios = _log_ratios(model, [(one["prompt"], one["answer"]) for one in judged])
    desirable = torch.tensor([one["desirable"] for one in judged])
    return kto_loss(ratios, desirable, shift, case["beta"], tuple(case["weights"])).mean()


@torch.no_grad()
def _shift(model: Any, work: Mapping[str, Any]) -> Tensor:
    return kto_shift(_log_ratios(model, [(one["prompt"], one["mismatched"]) for one in work["judged"]]))


def _log_ratios(model: Any, rows: list[tuple[list[int], list[int]]]) -> Tensor:
    examples = [
        Example([*prompt, *answer], [False] * len(prompt) + [True] * len(answer)) for prompt, answer in rows
    ]
    batch: Batch = collate([examples[: len(examples) // 2], examples[len(examples) // 2 :]])
    return answer_sums(batch, logprobs(model, batch)) - answer_sums(batch, reference_logprobs(model, batch))


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        print(json.dumps(compare(Path(sys.argv[2]))))

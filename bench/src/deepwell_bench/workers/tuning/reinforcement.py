"""The maths of PPO against numbers computed by hand, and a bandit on a tiny model: the last line of output is JSON.

`python -m deepwell_bench.workers.tuning.reinforcement FOLDER ITERATIONS`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from deepwell.tuning.align.ppo.config import parse_config
from deepwell.tuning.align.ppo.maths import gae, k3
from deepwell.tuning.align.ppo.prompts import Prompt
from deepwell.tuning.align.ppo.run import run_ppo

__all__ = ["main"]

WANTED: Final = 7
_CONTROL: Final = ("<|im_start|>", "<|im_end|>")
_TEMPLATE: Final = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class _Contains:
    """1 for answers with a text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def scores(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[float]:
        """Returns 0 or 1."""
        return [float(self._text in answer) for answer in answers]


def _gae_error() -> float:
    """Returns the largest difference from advantages computed by hand with gamma and lambda of a half."""
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.0, 2.0, 9.0]])
    values = torch.tensor([[0.5, 0.25, 0.5], [1.0, 1.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5)
    by_hand = torch.tensor([[-0.34375, 0.125, 0.5], [-0.25, 1.0, 0.0]])
    back = torch.tensor([[0.15625, 0.375, 1.0], [0.75, 2.0, 0.0]])
    return float(torch.maximum((advantages - by_hand).abs().max(), (returns - back).abs().max()))


def _least_k3() -> float:
    """Returns the least estimate over a million pairs of log probabilities, near and far."""
    generator = torch.Generator().manual_seed(0)
    policy = -torch.rand(1_000_000, generator=generator) * 10
    near = policy + torch.randn(1_000_000, generator=generator) * 1e-4
    far = -torch.rand(1_000_000, generator=generator) * 10
    return min(float(k3(policy, near).min()), float(k3(policy, far).min()))


def _tiny(folder: Path) -> Path:
    """Writes a Llama of two layers with random weights and a vocabulary of bytes."""
    folder.mkdir()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={one: number for number, one in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in _CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokenizer.token_to_id(_CONTROL[1])
    settings = {"eos_token": _CONTROL[1], "chat_template": _TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(letters) + len(_CONTROL),
            eos_token_id=end,
            bos_token_id=None,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.08)
    model.save_pretrained(folder)
    return folder


def _bandit(folder: Path, algorithm: str, iterations: int) -> dict[str, Any]:
    model = _tiny(folder / f"tiny-{algorithm}")
    prompts = folder / "prompts.jsonl"
    asked = ({"messages": [{"role": "user", "content": f"hello {number}"}]} for number in range(32))
    prompts.write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    config = parse_config(
        {
            "model": str(model),
            "data": [str(prompts)],
            "validation": 0,
            "algorithm": algorithm,
            "reward": {"type": "bandit"},
            "lora": {"targets": ["dense"]},
            "train": {
                "iterations": iterations,
                "prompts": 32 if algorithm == "ppo" else 8,
                "samples": 1 if algorithm == "ppo" else 4,
                "new_tokens": 12,
                "learning_rate": 1e-2,
                "kl_budget": 50,
                "kl_coefficient": 0,
                "update_kl": 5,
                "save_every": iterations,
                "precision": "fp32",
                "rollout_precision": "fp32",
            },
        }
    )
    wanted = sorted(pre_tokenizers.ByteLevel.alphabet())[WANTED]
    steps: list[dict[str, Any]] = []

    def take(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            steps.append(event)

    run = folder / algorithm
    run_ppo(config, run, on_event=take, rewards={"bandit": lambda *_: _Contains(wanted)})
    rewards = [one["reward"] for one in steps]
    return {
        "rewards": rewards,
        "ratio": max(one["first_ratio"] for one in steps),
        "clipped": max(one["first_clipped"] for one in steps),
    }


def main(folder: Path, iterations: int) -> dict[str, Any]:
    """Returns the figures."""
    runs = {name: _bandit(folder, name, iterations) for name in ("ppo", "grpo")}
    last = {name: sum(one["rewards"][-10:]) / len(one["rewards"][-10:]) for name, one in runs.items()}
    return {
        "gae_error": _gae_error(),
        "first_ratio_error": max(one["ratio"] for one in runs.values()),
        "first_clipped": max(one["clipped"] for one in runs.values()),
        "k3_least": _least_k3(),
        "iterations": iterations,
        "bandit_before": max(one["rewards"][0] for one in runs.values()),
        "bandit": round(last["ppo"], 3),
        "bandit_grpo": round(last["grpo"], 3),
        "curves": {name: one["rewards"] for name, one in runs.items()},
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))

"""One of the processes that compute the gradients of a step: `python -m ... STRATEGY:PORT...`, RANK and WORLD_SIZE set.

Each computes them alone as well; the first prints one line of JSON: by strategy, the largest relative difference of a
parameter's gradient.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from deepwell.tuning.train.batches import collate
from deepwell.tuning.train.config import TuneConfig
from deepwell.tuning.train.distributed.strategies import open_strategy
from deepwell.tuning.train.examples import Example
from deepwell.tuning.train.forward.loss import loss
from deepwell.tuning.train.strategy import Single, Strategy


def tiny_model() -> Any:
    """Returns a random model with adapters on every projection; three key heads divide unevenly among two processes."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=211,
        hidden_size=48,
        intermediate_size=101,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model: Any = LlamaForCausalLM(config)
    adapters = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(model, adapters)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.1
    return model


def pieces() -> list[list[list[Example]]]:
    """Returns three pieces, an odd number, of rows of several examples with masked beginnings."""
    draw = torch.Generator().manual_seed(1)
    lengths = [[[9, 40], [31]], [[17, 5, 22]], [[50], [12, 30]]]
    return [
        [
            [
                Example(
                    torch.randint(3, 211, (length,), generator=draw).tolist(),
                    [place >= length // 3 for place in range(length)],
                )
                for length in row
            ]
            for row in piece
        ]
        for piece in lengths
    ]


def gradients(model: Any, strategy: Strategy) -> tuple[dict[str, torch.Tensor], float]:
    """Returns the gradients of one step by name, and its summed loss."""
    model = strategy.prepare(model).train()
    total = torch.zeros(1, dtype=torch.float64)
    for piece in strategy.share(pieces()):
        found, _ = loss(model, collate(piece).to(strategy.device))
        found.backward()
        total += float(found.detach())
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    strategy.sum_gradients(trained.values())
    return {name: one.grad for name, one in trained.items()}, float(strategy.sum(total))


def main(names: list[str]) -> None:
    """Computes the gradients of each strategy, and in the first process those of one process."""
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for argument in names:
        name, _, os.environ["MASTER_PORT"] = argument.partition(":")
        config = TuneConfig.model_validate({"data": ["none.jsonl"], "train": {"strategy": name}})
        with open_strategy(config, torch.device("cpu")) as strategy:
            ours, total = gradients(tiny_model(), strategy)
            rank = strategy.rank
        expected, single = gradients(tiny_model(), Single(torch.device("cpu")))
        difference = max(float((ours[key] - expected[key]).norm() / expected[key].norm()) for key in expected)
        found[name] = {"difference": difference, "loss": total, "single": single}
        if rank == 0 and len(found) == len(names):
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

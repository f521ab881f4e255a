"""Rollouts of a policy by the engine and by `transformers.generate`, in turns; the last line of output is JSON.

`python -m deepwell_bench.workers.tuning.rollouts MODEL FOLDER ROUNDS`: the folder has the prompts, and takes the adapter.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
import transformers

from deepwell.engine.machine import usable_cpus
from deepwell.tuning.align.ppo.config import AdapterConfig
from deepwell.tuning.align.ppo.rollouts import open_sampler
from deepwell.tuning.train.bases import load_model, open_base
from deepwell.tuning.train.lora import add_lora, save_adapter

__all__ = ["main"]

NEW_TOKENS: Final = 64
_WARM: Final = 8


def main(model: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Returns tokens a second of both. transformers has the model without an adapter, which is faster for it."""
    torch.set_num_threads(usable_cpus())
    torch.set_grad_enabled(False)
    texts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    base = open_base(model)
    config = AdapterConfig.model_validate({})
    wrapped = add_lora(load_model(base), base.config, config, seed=0)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:  # zero in a fresh adapter
            parameter.normal_(0, 0.01)
    (folder / "adapter").mkdir()
    save_adapter(wrapped, folder / "adapter", base.name)
    del wrapped
    prompts = [tuple(base.codec.encode(one)) for one in texts]
    peers = {dtype: load_model(base, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    found: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    context = max(map(len, prompts)) + NEW_TOKENS
    with open_sampler(model, context=context, sequences=len(prompts)) as sampler:
        sampler.swap(lambda target: _copy(folder / "adapter", target))
        for number in range(-1, rounds):  # the first round warms up
            tokens = _WARM if number < 0 else NEW_TOKENS
            seeds = [1000 * number + place for place in range(len(prompts))]
            began = time.perf_counter()
            drawn = sampler.sample(prompts, seeds=seeds, max_tokens=tokens)
            rates = {"ours": sum(len(one.tokens) for one in drawn) / (time.perf_counter() - began)}
            for name, peer in peers.items():
                rates[name] = _generate(peer, prompts, tokens, number + 1)
            if number >= 0:
                for name, rate in rates.items():
                    found[name].append(rate)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    best = max(peers, key=lambda name: medians[name])
    ratios = [ours / theirs for ours, theirs in zip(found["ours"], found[best], strict=True)]
    return {
        "batch": len(prompts),
        "new_tokens": NEW_TOKENS,
        "rounds": rounds,
        "tokens_s": round(medians["ours"], 1),
        "transformers": transformers.__version__,
        "transformers_dtype": best,
        "transformers_tokens_s": round(medians[best], 1),
        "ratio": round(statistics.median(ratios), 2),
        "rates": {name: [round(one, 1) for one in rates] for name, rates in found.items()},
    }


def _generate(model: Any, prompts: list[tuple[int, ...]], tokens: int, seed: int) -> float:
    """Returns tokens a second of `generate` with pure sampling. All answers have the full length, so that nothing is padded."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(one)) + list(one) for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    torch.manual_seed(seed)
    began = time.perf_counter()
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        use_cache=True,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        pad_token_id=0,
    )
    return len(prompts) * (out.shape[1] - width) / (time.perf_counter() - began)


def _copy(source: Path, target: Path) -> None:
    for one in source.iterdir():
        (target / one.name).write_bytes(one.read_bytes())


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
